//! The asynchronous stream: the same text, and it stops when it is dropped.

use std::time::Duration;

use futures_executor::block_on;
use futures_util::StreamExt;
use moe_offload::{
    AsyncModel, CancelHandle, Error, GenerateOptions, Message, MoeModel, Sampling, StopReason,
};

use crate::support::generate::greedy;
use crate::support::load::on_cpu;
use crate::support::model_files::demo;

static_assertions::assert_impl_all!(AsyncModel: Send, Sync, Clone);
static_assertions::assert_impl_all!(moe_offload::PieceStream: Send, Unpin);

fn load() -> MoeModel {
    on_cpu(demo()).threads(1).context_tokens(512).load().unwrap()
}

fn question() -> Vec<Message> {
    vec![Message::user("What is this crate?")]
}

#[test]
fn the_same_text_as_without() {
    let expected = load().chat(&question(), &greedy(40)).unwrap().text().unwrap();
    let model = AsyncModel::new(load()).unwrap();
    block_on(async {
        // Two at once wait for each other; the model outlives its last handle while they run.
        let [first, second] =
            [model.chat(question(), greedy(40)), model.chat(question(), greedy(40))];
        drop(model);
        for stream in [first, second] {
            let pieces: Vec<String> = stream.map(Result::unwrap).collect().await;
            assert!(pieces.len() > 3);
            assert_eq!(pieces.concat(), expected);
        }
    });
}

#[test]
fn a_dropped_stream_stops_the_model() {
    let model = AsyncModel::new(load()).unwrap();
    block_on(async {
        let mut sampling = Sampling::default().seed(1);
        // Never the end of the text.
        sampling.temperature = 2.0;
        let endless = GenerateOptions::default().sampling(sampling);
        let mut stream = model.generate("Once", endless);
        let _ = stream.next().await.unwrap().unwrap();
        drop(stream);
        let stats = model.with(|model| model.stats()).await.unwrap();
        // The channel holds 16 pieces, of one token each or a few.
        assert!(stats.generated_tokens < 100, "{stats}");
        // One that was never polled is not even begun, and the model goes on.
        drop(model.chat(question(), greedy(40)));
        let text: Vec<_> = model.chat(question(), greedy(5)).map(Result::unwrap).collect().await;
        assert!(!text.is_empty());
    });
}

#[test]
fn what_goes_wrong_is_in_the_stream() {
    let model = AsyncModel::new(load()).unwrap();
    block_on(async {
        let mut stream = model.generate("", greedy(5));
        let error = stream.next().await.unwrap().unwrap_err();
        assert!(matches!(error, Error::EmptyPrompt), "{error}");
        assert!(stream.next().await.is_none());
    });
}

#[test]
fn a_dropped_stream_leaves_the_caller_s_handle_alone() {
    let model = AsyncModel::new(load()).unwrap();
    block_on(async {
        let cancel = CancelHandle::new();
        let options = greedy(40).cancel(&cancel);
        let mut first = model.chat(question(), options.clone());
        let _ = first.next().await.unwrap().unwrap();
        let second = model.chat(question(), options.clone());
        drop(first);
        assert!(!cancel.is_cancelled());
        let pieces: Vec<_> = second.collect().await;
        assert!(pieces.len() > 3 && pieces.iter().all(Result::is_ok), "{pieces:?}");
        // It still stops all that it was given to.
        let third = model.chat(question(), options);
        cancel.cancel();
        let pieces: Vec<_> = third.collect().await;
        assert!(matches!(pieces.last(), Some(Err(Error::Cancelled { .. }))), "{pieces:?}");
    });
}

#[test]
fn a_model_whose_thread_died_is_an_error_and_no_empty_text() {
    let model = AsyncModel::new(load()).unwrap();
    // One waits for its turn while the thread dies, one comes later.
    let (begun, has_begun) = std::sync::mpsc::channel();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let other = model.clone();
    let act = move |_: &mut MoeModel| -> () {
        begun.send(()).unwrap();
        let _ = held.recv();
        panic!("planted");
    };
    let dies = std::thread::spawn(move || block_on(other.with(act)));
    has_begun.recv().unwrap();
    let waiting = model.chat(question(), greedy(5));
    drop(release);
    assert!(matches!(dies.join().unwrap(), Err(Error::ModelGone)));
    block_on(async {
        for stream in [waiting, model.generate("Hello", greedy(5))] {
            let pieces: Vec<_> = stream.collect().await;
            assert!(matches!(pieces[..], [Err(Error::ModelGone)]), "{pieces:?}");
        }
    });
}

#[test]
fn a_stream_says_why_it_ended() {
    let model = AsyncModel::new(load()).unwrap();
    block_on(async {
        let mut stream = model.chat(question(), greedy(5).log_probabilities(1));
        let mut noted = 0;
        while let Some(piece) = stream.next().await {
            piece.unwrap();
            assert_eq!(stream.stop_reason(), None);
            noted += stream.take_log_probabilities().len();
        }
        assert_eq!(stream.stop_reason(), Some(StopReason::MaxTokens));
        assert_eq!(noted + stream.take_log_probabilities().len(), 5);
        assert!(stream.next().await.is_none());
    });
}

/// Their turn does not come: the model is held by other work.
#[test]
fn streams_that_wait_for_their_turn_keep_their_limits() {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let model = AsyncModel::new(load()).unwrap();
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let other = model.clone();
        let act = move |_: &mut MoeModel| {
            begun.send(()).unwrap();
            let _ = held.recv();
        };
        let holds = std::thread::spawn(move || block_on(other.with(act)));
        has_begun.recv().unwrap();
        let cancel = CancelHandle::new();
        let mut late = model.chat(question(), greedy(5).max_time(Duration::from_millis(50)));
        let stopped = model.generate("Hello", greedy(5).cancel(&cancel));
        let item = block_on(late.next());
        assert!(item.is_none(), "{item:?}");
        assert_eq!(late.stop_reason(), Some(StopReason::TimeLimit));
        cancel.cancel();
        let pieces: Vec<_> = block_on(stopped.collect());
        assert!(matches!(pieces[..], [Err(Error::Cancelled { .. })]), "{pieces:?}");
        // The model makes nothing for them when it is free again, and goes on with the next.
        drop(release);
        holds.join().unwrap().unwrap();
        let stats = block_on(model.with(|model| model.stats())).unwrap();
        assert_eq!(stats.generated_tokens, 0, "{stats}");
        let pieces: Vec<_> = block_on(model.chat(question(), greedy(5)).collect());
        assert!(!pieces.is_empty() && pieces.iter().all(Result::is_ok), "{pieces:?}");
        done.send(()).unwrap();
    });
    let ended = is_done.recv_timeout(Duration::from_secs(60));
    assert_eq!(ended, Ok(()), "it hung, or a check above failed");
}
