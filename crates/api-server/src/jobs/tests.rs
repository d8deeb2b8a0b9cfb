use super::*;
use serde_json::json;
use std::sync::mpsc;

fn jobs() -> Jobs {
    Jobs::new(Events::new(Arc::new(env::RealClock::new())))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
}

#[test]
fn outcomes_become_states() {
    let jobs = jobs();
    runtime().block_on(async {
        let done = jobs.begin(JobKind::Check, "", |_| Ok(json!(7))).unwrap();
        assert_eq!(done.outcome().await, Ok(json!(7)));
        assert_eq!(done.job().state, JobState::Done);
        assert_eq!(done.job().result, Some(json!(7)));
        assert!(done.cancel().is_err());

        let failed = jobs
            .begin(JobKind::Check, "", |_| {
                Err(ApiError::new(ErrorCode::NoSpace, "full"))
            })
            .unwrap();
        assert_eq!(failed.outcome().await.unwrap_err().code, ErrorCode::NoSpace);
        assert_eq!(failed.job().state, JobState::Failed);

        let panicked = jobs
            .begin(JobKind::Check, "", |_| panic!("on purpose"))
            .unwrap();
        assert_eq!(
            panicked.outcome().await.unwrap_err().code,
            ErrorCode::Internal
        );
        jobs.idle().await;
    });
    assert_eq!(jobs.list().len(), 3);
}

#[test]
fn a_cancelled_job_says_so_whatever_its_work_says() {
    let jobs = jobs();
    let entry = jobs
        .begin(JobKind::Import, "a", |entry| {
            while entry.report(1, 2).is_ok() {
                std::thread::yield_now();
            }
            Err(ApiError::new(ErrorCode::Internal, "the reader broke"))
        })
        .unwrap();
    entry.cancel().unwrap();
    let outcome = runtime().block_on(entry.outcome());
    assert_eq!(outcome.unwrap_err().code, ErrorCode::Cancelled);
    assert_eq!(entry.job().state, JobState::Cancelled);
    assert_eq!((entry.job().done, entry.job().total), (1, 2));
}

#[test]
fn as_many_run_as_may_and_none_after_closing() {
    let jobs = jobs();
    let (release, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    for _ in 0..RUNNING_MAX {
        let gate = Arc::clone(&gate);
        jobs.begin(JobKind::Check, "", move |_| {
            let _ = gate.lock().recv();
            Ok(Value::Null)
        })
        .unwrap();
    }
    let refused = jobs.begin(JobKind::Check, "", |_| Ok(Value::Null));
    assert_eq!(refused.err().unwrap().code, ErrorCode::Unavailable);
    drop(release);
    runtime().block_on(jobs.idle());
    jobs.close();
    let refused = jobs.begin(JobKind::Check, "", |_| Ok(Value::Null));
    assert_eq!(refused.err().unwrap().code, ErrorCode::Unavailable);
}

#[test]
fn only_so_many_ended_jobs_are_remembered() {
    let jobs = jobs();
    let runtime = runtime();
    for _ in 0..ENDED_KEPT + 5 {
        let entry = jobs.begin(JobKind::Check, "", |_| Ok(Value::Null)).unwrap();
        runtime.block_on(entry.outcome()).unwrap();
        runtime.block_on(jobs.idle());
    }
    let list = jobs.list();
    assert_eq!(list.len(), ENDED_KEPT);
    assert_eq!(list[0].id, 6);
    assert_eq!(jobs.get(5).err().unwrap().code, ErrorCode::NotFound);
}

#[test]
fn what_took_no_storage_is_told_if_the_work_tells_what_did() {
    let jobs = jobs();
    let begin = |stored: Option<u64>| {
        let work = move |entry: &Entry| {
            stored.into_iter().for_each(|bytes| entry.stored(bytes));
            entry.report(3 << 20, 4 << 20)?;
            Ok(Value::Null)
        };
        let entry = jobs.begin(JobKind::Import, "a", work).unwrap();
        runtime().block_on(entry.outcome()).unwrap();
        entry.job().saved
    };
    assert_eq!(begin(None), None);
    assert_eq!(begin(Some(1 << 20)), Some(2 << 20));
    // More than what it is of: maps and headers, too.
    assert_eq!(begin(Some(5 << 20)), Some(0));
    runtime().block_on(jobs.idle());
    let events = jobs.0.events.after(0).events;
    let ends: Vec<&str> = events
        .iter()
        .filter(|event| event.kind == EventKind::JobEnded)
        .map(|event| &*event.message)
        .collect();
    let expected = [
        "import of a is done",
        "import of a is done: 2.00 MiB of 3.00 MiB saved",
        "import of a is done: 0 B of 3.00 MiB saved",
    ];
    assert_eq!(ends, expected);
}
