//! Plots: horizontal bars in SVG, readable on light and on dark pages.

use super::report::number;
use std::fmt::Write as _;

const LABELS: f64 = 430.0;
const BARS: f64 = 420.0;
const RIGHT: f64 = 150.0;
const LINE: f64 = 24.0;
const TOP: f64 = 44.0;
const OURS: &str = "#2a7fba";
const THEIRS: &str = "#9aa5ad";
const SHORT: &str = "#c8553d";

/// A bar for each server, the first ours, with the spread of its rounds: name, median, least, most.
pub(crate) fn sides(title: &str, unit: &str, bars: &[(String, f64, f64, f64)]) -> String {
    let most = bars
        .iter()
        .map(|bar| bar.3)
        .fold(f64::MIN_POSITIVE, f64::max);
    let scale = BARS / most;
    let mut body = String::new();
    for (line, (name, median, low, high)) in bars.iter().enumerate() {
        let color = if line == 0 { OURS } else { THEIRS };
        let y = bar(&mut body, line, name, median * scale, color);
        let (from, to, middle) = (LABELS + low * scale, LABELS + high * scale, y + 8.0);
        // Writing to a string cannot fail.
        let _ = writeln!(
            body,
            r#"<path d="M{from:.1} {middle}H{to:.1}M{from:.1} {}v8M{to:.1} {}v8" class="spread"/>"#,
            y + 4.0,
            y + 4.0
        );
        text(
            &mut body,
            to.max(LABELS + median * scale) + 8.0,
            y + 12.0,
            &format!("{} {unit}", number(*median)),
        );
    }
    page(title, bars.len(), &body)
}

/// A bar for each target, as far as it is met: 1 is just met. Beyond 3 it is cut.
pub(crate) fn margins(title: &str, rows: &[(String, f64)]) -> String {
    const MOST: f64 = 3.0;
    let scale = BARS / MOST;
    let mut body = String::new();
    for (line, (name, margin)) in rows.iter().enumerate() {
        let color = if *margin >= 1.0 { OURS } else { SHORT };
        let width = margin.clamp(0.0, MOST) * scale;
        let y = bar(&mut body, line, name, width, color);
        text(
            &mut body,
            LABELS + width + 8.0,
            y + 12.0,
            &format!("{} ×", number(*margin)),
        );
    }
    let bottom = TOP + rows.len() as f64 * LINE;
    let _ = writeln!(
        body,
        r#"<path d="M{:.1} {}V{bottom}" class="target"/>"#,
        LABELS + scale,
        TOP - 6.0
    );
    page(title, rows.len(), &body)
}

/// Draws a bar and its name; says where its top is.
fn bar(body: &mut String, line: usize, name: &str, width: f64, color: &str) -> f64 {
    let y = TOP + line as f64 * LINE;
    let _ = writeln!(
        body,
        r#"<rect x="{LABELS}" y="{y}" width="{width:.1}" height="16" fill="{color}"/>"#
    );
    let _ = writeln!(
        body,
        r#"<text x="{}" y="{}" text-anchor="end">{}</text>"#,
        LABELS - 8.0,
        y + 12.0,
        escaped(name)
    );
    y
}

fn text(body: &mut String, x: f64, y: f64, text: &str) {
    let _ = writeln!(body, r#"<text x="{x:.1}" y="{y}">{}</text>"#, escaped(text));
}

fn page(title: &str, lines: usize, body: &str) -> String {
    let (width, height) = (LABELS + BARS + RIGHT, TOP + lines as f64 * LINE + 8.0);
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">
<style>text{{font:12px sans-serif;fill:#222}}.title{{font-size:14px;font-weight:bold}}path{{fill:none;stroke:#222}}.target{{stroke-dasharray:4 3}}
@media(prefers-color-scheme:dark){{text{{fill:#ddd}}path{{stroke:#ddd}}}}</style>
<text x="12" y="22" class="title">{}</text>
{body}</svg>
"#,
        escaped(title)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{margins, sides};

    #[test]
    fn every_bar_has_its_name_and_figure() {
        let bars = [
            ("ours & co".to_owned(), 10.0, 9.0, 11.0),
            ("theirs".to_owned(), 5.0, 4.0, 6.0),
        ];
        let svg = sides("reads", "IOPS", &bars);
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(svg.contains("ours &amp; co") && svg.contains("10 IOPS"));
    }

    #[test]
    fn a_missed_target_has_another_color() {
        let svg = margins("t", &[("a".to_owned(), 0.5), ("b".to_owned(), 2.0)]);
        assert!(svg.contains(super::SHORT) && svg.contains(super::OURS));
    }
}
