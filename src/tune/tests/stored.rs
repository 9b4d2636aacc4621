//! Answers that are kept in a file.

use super::*;
use crate::error::Result;
use crate::tune::cache;

#[test]
fn a_tuning_is_found_again_on_the_same_machine_only() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tunings.json");
    let limits = Limits::default();
    let first = tuning();
    assert_eq!(cache::find(&path, &first.key, &limits)?, None);
    cache::keep(&path, &first)?;
    let known = |key: &TuneKey| cache::find(&path, key, &limits).unwrap();
    assert_eq!(known(&first.key), Some(Tuning { is_cached: true, ..first.clone() }));
    // Free memory and the time change all the time.
    let mut later = first.key.clone();
    later.environment.unix_seconds = 99;
    later.environment.devices[0].free_bytes = Some(5);
    assert!(known(&later).is_some());
    let others: [fn(&mut TuneKey); 9] = [
        |key| key.environment.cpu = "another CPU".into(),
        |key| key.environment.cpu_threads = 4,
        |key| key.environment.memory_bytes = Some(2048),
        |key| key.environment.devices[0].total_bytes = Some(40),
        |key| key.environment.engine.ggml_commit = "other".into(),
        |key| key.context_tokens = 1024,
        |key| key.prompt_tokens = 65,
        |key| key.budget_bytes = Some(7),
        |key| key.policies.push(policy(2)),
    ];
    for (i, change) in others.iter().enumerate() {
        let mut other = first.key.clone();
        change(&mut other);
        assert_eq!(known(&other), None, "{i}");
    }
    Ok(())
}

#[test]
fn what_was_cut_short_does_not_do_for_who_has_more_time() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tunings.json");
    let whole = tuning();
    let mut cut = whole.clone();
    cut.found.stop = Stop::Time;
    cut.limits.seconds = 10.0;
    cache::keep(&path, &cut)?;
    assert_eq!(cache::find(&path, &whole.key, &whole.limits)?, None);
    assert!(cache::find(&path, &whole.key, &cut.limits)?.is_some());
    // One that was cut short even earlier does not take its place, a whole one does, and stays.
    let mut shorter = cut.clone();
    shorter.limits.seconds = 5.0;
    cache::keep(&path, &shorter)?;
    assert!(cache::find(&path, &whole.key, &cut.limits)?.is_some());
    cache::keep(&path, &whole)?;
    cache::keep(&path, &cut)?;
    let found = cache::find(&path, &whole.key, &whole.limits)?;
    assert!(found.is_some_and(|found| found.found.stop == Stop::NothingFaster));
    // There is one answer to a question.
    let lines = std::fs::read_to_string(&path).unwrap();
    assert_eq!(lines.matches("\"version\"").count(), 1);
    Ok(())
}

#[test]
fn what_failed_for_memory_is_tried_again_when_there_is_more() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tunings.json");
    let mut unfit = tuning();
    unfit.passed_over[0].shortage = Some(shortage(5));
    cache::keep(&path, &unfit)?;
    let is_known = |free_bytes, budget_bytes| {
        let mut now = unfit.key.clone();
        now.environment.devices[0].free_bytes = Some(free_bytes);
        now.budget_bytes = budget_bytes;
        let mut then = unfit.clone();
        then.key.budget_bytes = budget_bytes;
        then.holds(&now)
    };
    // 10 bytes were free, and 15 would have been needed.
    assert!(is_known(10, None) && is_known(14, None) && !is_known(15, None));
    // A budget allows no more, however much is free.
    assert!(is_known(99, Some(9)));
    let mut more = unfit.key.clone();
    more.environment.devices[0].free_bytes = Some(15);
    assert_eq!(cache::find(&path, &more, &unfit.limits)?, None);
    assert!(cache::find(&path, &unfit.key, &unfit.limits)?.is_some());
    // The same for a trial; and a check that failed is no answer at all.
    let mut tried = tuning();
    tried.found.trials[0].outcome = short_of(5).outcome;
    assert!(tried.holds(&tried.key) && !tried.holds(&more));
    let mut unchecked = tuning();
    unchecked.found.check = Check::Failed { reason: "lost".into() };
    assert!(!unchecked.holds(&unchecked.key));
    cache::keep(&path, &unchecked)?;
    assert!(cache::find(&path, &unfit.key, &unfit.limits)?.is_some());
    Ok(())
}

#[test]
fn a_file_that_cannot_be_written_is_found_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("no-such-folder").join("tunings.json");
    assert!(matches!(cache::check(&nowhere), Err(Error::Io { action: "write", .. })));
    cache::check(&folder.path().join("tunings.json")).unwrap();
    // Nothing is left behind.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_holds_something_else_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tunings.json");
    std::fs::write(&path, "a letter").unwrap();
    let error = cache::keep(&path, &tuning()).unwrap_err();
    assert!(matches!(&error, Error::TuneCache { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a letter");
    // Another version's answers are dropped.
    std::fs::write(&path, r#"[{ "version": 0 }]"#).unwrap();
    cache::keep(&path, &tuning()).unwrap();
    assert!(!std::fs::read_to_string(&path).unwrap().contains("\"version\": 0"));
}
