//! The machine's apt sources, in both of their syntaxes (sources.list(5)).

use anyhow::{Context, Result};
use std::{fs, path::Path};

/// One suite of one archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    uri: String,
    /// Such as `bookworm`.
    pub(super) suite: String,
    signed_by: Option<String>,
}

impl Source {
    /// The same archive's suite of another name.
    pub(super) fn with_suite(&self, suite: String) -> Self {
        Source {
            suite,
            ..self.clone()
        }
    }

    /// As a line of sources.list; component `main` is all that is needed.
    pub(super) fn line(&self) -> String {
        let options = match &self.signed_by {
            Some(key) => format!("[signed-by={key}] "),
            None => String::new(),
        };
        format!("deb {options}{} {} main", self.uri, self.suite)
    }
}

/// The sources of release `codename` under `/etc/apt`, other parties' left out.
pub(super) fn of_machine(etc: &Path, codename: &str) -> Result<Vec<Source>> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc.join("sources.list.d")) {
        files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    let mut all: Vec<Source> = Vec::new();
    for file in files.iter().filter(|file| file.is_file()) {
        let text =
            fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let found = match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => stanzas(&text),
            Some("list") => lines(&text),
            _ => Vec::new(),
        };
        for source in found {
            if is_of_release(&source.suite, codename) && !all.contains(&source) {
                all.push(source);
            }
        }
    }
    Ok(all)
}

fn is_of_release(suite: &str, codename: &str) -> bool {
    match suite.strip_prefix(codename) {
        Some(rest) => ["", "-updates", "-security", "-backports"].contains(&rest),
        None => false,
    }
}

fn lines(text: &str) -> Vec<Source> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let key = |option: &str| option.strip_prefix("signed-by=").map(str::to_owned);
    Some(Source {
        uri: words.next()?.to_owned(),
        suite: words.next()?.to_owned(),
        signed_by: options.split_whitespace().find_map(key),
    })
}

fn stanzas(text: &str) -> Vec<Source> {
    let clean: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    clean.join("\n").split("\n\n").flat_map(stanza).collect()
}

fn stanza(text: &str) -> Vec<Source> {
    let field = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let words = |name| field(name).unwrap_or_default().split_whitespace();
    let off = field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
    if off || !words("Types").any(|kind| kind == "deb") {
        return Vec::new();
    }
    // A key may stand in the stanza itself; only one in a file can be carried over.
    let key = field("Signed-By").filter(|key| key.starts_with('/'));
    let of = |uri: &str, suite: &str| Source {
        uri: uri.to_owned(),
        suite: suite.to_owned(),
        signed_by: key.map(str::to_owned),
    };
    words("URIs")
        .flat_map(|uri| words("Suites").map(move |suite| of(uri, suite)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Source, lines, of_machine, stanzas};

    #[test]
    fn stanzas_are_read() {
        let found = stanzas(
            "Types: deb\n# a comment\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\n\
             Components: main\nSigned-By: /usr/share/keyrings/k.gpg\n\n\
             Types: deb-src\nURIs: http://mirror/debian\nSuites: bookworm\n\n\
             Types: deb\nEnabled: no\nURIs: http://off/debian\nSuites: bookworm\n",
        );
        let text: Vec<String> = found.iter().map(Source::line).collect();
        assert_eq!(
            text,
            [
                "deb [signed-by=/usr/share/keyrings/k.gpg] http://mirror/debian bookworm main",
                "deb [signed-by=/usr/share/keyrings/k.gpg] http://mirror/debian bookworm-updates main"
            ]
        );
    }

    #[test]
    fn lines_are_read() {
        let found = lines(
            "# deb http://no x main\n\
             deb http://mirror/debian bookworm main contrib\n\
             deb [arch=amd64 signed-by=/k.gpg] http://mirror/debian bookworm-updates main\n\
             deb-src http://mirror/debian bookworm main\n",
        );
        let text: Vec<String> = found.iter().map(Source::line).collect();
        assert_eq!(
            text,
            [
                "deb http://mirror/debian bookworm main",
                "deb [signed-by=/k.gpg] http://mirror/debian bookworm-updates main"
            ]
        );
    }

    #[test]
    fn other_parties_are_left_out() {
        let scratch = crate::cleanup::Scratch::temporary().unwrap();
        let parts = scratch.path().join("sources.list.d");
        std::fs::create_dir(&parts).unwrap();
        std::fs::write(parts.join("a.list"), "deb http://other/apt nodistro main\n").unwrap();
        std::fs::write(parts.join("b.list"), "deb http://m/debian bookworm main\n").unwrap();
        let found = of_machine(scratch.path(), "bookworm").unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].with_suite("x".into()).line(),
            "deb http://m/debian x main"
        );
    }
}
