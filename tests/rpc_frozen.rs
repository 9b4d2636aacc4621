//! RPC servers that are stopped, not dead: whoever waits for one may stop waiting, and nothing is lost by it.
#![cfg(all(feature = "llama", unix))]
#![allow(missing_docs)]

mod support;

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use moe_offload::{
    CancelHandle, Error, GenerateOptions, Message, MoeModel, MoeModelBuilder, StopReason,
};
use support::generate::greedy;
use support::load::on_cpu;
use support::model_files::demo;
use support::process::Server;

/// Against hanging for ever, also where all is slow; ends are promised within 2 s.
const BOUND: Duration = Duration::from_secs(120);
/// How long a server has been silent when the person cancels.
const PATIENCE: Duration = Duration::from_millis(300);

fn builder(endpoint: &str) -> MoeModelBuilder {
    let policy = "first-layers:1".parse().unwrap();
    on_cpu(demo()).rpc_server(endpoint).policy(policy).threads(1).context_tokens(512)
}

fn text(model: &mut MoeModel, options: &GenerateOptions) -> moe_offload::Result<String> {
    model.chat(&[Message::user("What does this crate do?")], options)?.text()
}

/// What `work` comes to, if it ends.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(BOUND).expect("it does not end")
}

/// A switch that somebody is about to throw.
fn soon() -> CancelHandle {
    let cancel = CancelHandle::new();
    throw_soon(cancel.clone());
    cancel
}

fn throw_soon(cancel: CancelHandle) {
    thread::spawn(move || {
        thread::sleep(PATIENCE);
        cancel.cancel();
    });
}

/// Until somebody waits for an answer of this server, which is stopped.
fn until_asked(server: &Server) {
    #[cfg(target_os = "linux")]
    {
        let started = std::time::Instant::now();
        while !server.has_unread() {
            assert!(started.elapsed() < BOUND, "it is not asked for anything");
            thread::sleep(Duration::from_millis(5));
        }
    }
    #[cfg(not(target_os = "linux"))]
    thread::sleep(PATIENCE);
}

#[test]
fn connecting_is_cancelled() {
    let server = Server::start();
    server.signal("STOP");
    let loading = builder(&server.endpoint).cancel(&soon());
    let error = in_time(|| loading.load()).unwrap_err();
    assert!(matches!(error, Error::Cancelled { operation: "loading" }), "{error}");
    server.signal("CONT");
    builder(&server.endpoint).load().unwrap();
}

#[test]
fn a_load_is_cancelled() {
    for stopped_at in [0.0, 0.5, 1.0] {
        let server = Arc::new(Server::start());
        let (cancel, stopping) = (CancelHandle::new(), Arc::clone(&server));
        let mut thrown = Some(cancel.clone());
        let stop = move |done: f32| {
            if done >= stopped_at
                && let Some(cancel) = thrown.take()
            {
                stopping.signal("STOP");
                throw_soon(cancel);
            }
        };
        let loading = builder(&server.endpoint).cancel(&cancel).on_progress(stop);
        let error = in_time(|| loading.load()).unwrap_err();
        assert!(matches!(error, Error::Cancelled { operation: "loading" }), "{error}");
        server.signal("CONT");
        builder(&server.endpoint).load().unwrap();
    }
}

#[test]
fn reading_a_prompt_ends_and_the_model_goes_on() {
    let server = Server::start();
    let mut model = builder(&server.endpoint).load().unwrap();
    let expected = text(&mut model, &greedy(40)).unwrap();
    for by_time in [true, false] {
        server.signal("STOP");
        model.forget().unwrap();
        let options = greedy(40);
        let options = if by_time { options.max_time(PATIENCE) } else { options.cancel(&soon()) };
        let (ended, back) = in_time(move || {
            let ended = model.chat(&[Message::user("What does this crate do?")], &options);
            let ended = ended.and_then(|mut generation| {
                let pieces = generation.by_ref().collect::<Result<String, _>>()?;
                assert_eq!(pieces, "", "what a silent server computed");
                Ok(generation.stop_reason())
            });
            (ended, model)
        });
        model = back;
        match ended {
            Ok(reason) => assert!(by_time && reason == Some(StopReason::TimeLimit), "{reason:?}"),
            Err(error) => {
                assert!(!by_time && matches!(error, Error::Cancelled { .. }), "{error}");
            }
        }
        server.signal("CONT");
        // What it answered too late is not taken for the answer to something else.
        assert_eq!(text(&mut model, &greedy(40)).unwrap(), expected);
        assert_eq!(text(&mut model, &greedy(40)).unwrap(), expected);
    }
}

#[test]
fn an_answer_ends_between_tokens_and_the_model_goes_on() {
    let server = Server::start();
    let mut model = builder(&server.endpoint).load().unwrap();
    let expected = text(&mut model, &greedy(40)).unwrap();
    for stopped_after in [1, 5] {
        let cancel = CancelHandle::new();
        let options = greedy(40).cancel(&cancel);
        let messages = [Message::user("What does this crate do?")];
        let mut generation = model.chat(&messages, &options).unwrap();
        let begun: String = generation.by_ref().take(stopped_after).map(Result::unwrap).collect();
        server.signal("STOP");
        throw_soon(cancel);
        let error = generation.next().unwrap().unwrap_err();
        assert!(matches!(error, Error::Cancelled { .. }), "{error}");
        assert!(generation.next().is_none() && expected.starts_with(&begun), "{begun}");
        // A session saved now holds nothing made up.
        let folder = tempfile::tempdir().unwrap();
        let session = folder.path().join("session");
        let saved = model.save_session(&session);
        server.signal("CONT");
        match saved {
            Ok(()) => model.restore_session(&session).unwrap(),
            // The cancel came between two computations, so that what the server has could not be asked for.
            Err(error) => assert!(matches!(error, Error::Cancelled { .. }), "{error}"),
        }
        assert_eq!(text(&mut model, &greedy(40)).unwrap(), expected);
    }
}

#[test]
fn freeing_waits_for_no_server() {
    let server = Server::start();
    for is_cancelled in [false, true] {
        let mut model = builder(&server.endpoint).load().unwrap();
        let second = model.another().unwrap();
        server.signal("STOP");
        in_time(move || {
            if is_cancelled {
                let error = text(&mut model, &greedy(8).cancel(&soon())).unwrap_err();
                assert!(matches!(error, Error::Cancelled { .. }), "{error}");
            }
            drop(second);
            drop(model);
        });
        server.signal("CONT");
        builder(&server.endpoint).load().unwrap();
    }
}

#[test]
fn others_are_not_held_up() {
    let (frozen, other) = (Server::start(), Server::start());
    let mut waiting = builder(&frozen.endpoint).load().unwrap();
    let mut model = builder(&other.endpoint).load().unwrap();
    let expected = text(&mut model, &greedy(8)).unwrap();
    frozen.signal("STOP");
    // Waits without limits, and holds what only one thread may have.
    let waiting = thread::spawn(move || text(&mut waiting, &greedy(8)));
    until_asked(&frozen);
    let (error, mut model) = in_time(move || {
        let error = text(&mut model, &greedy(8).cancel(&soon())).unwrap_err();
        (error, model)
    });
    assert!(matches!(error, Error::Cancelled { .. }), "{error}");
    frozen.signal("CONT");
    assert_eq!(waiting.join().unwrap().unwrap(), expected);
    assert_eq!(text(&mut model, &greedy(8)).unwrap(), expected);
}
