//! Generation for asynchronous programs: the model on a thread of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use futures_core::Stream;

use super::log_probabilities::TokenLogProbabilities;
use super::options::{GenerateOptions, StopReason};
use crate::chat::Message;
use crate::error::{Error, Result};
use crate::generate::Generation;
use crate::limits::{CancelHandle, Limits};
use crate::model::MoeModel;

/// Pieces that may wait for the program before the model does.
const PIECES: usize = 16;

/// How often a stream that waits for its turn looks at its limits.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What the thread is to do with the model.
type Job = Box<dyn FnOnce(&mut MoeModel) + Send>;

/// What the thread still has to do. However it ends, what waits then is dropped, and those who wait
/// for it learn of that.
struct Todo(Receiver<Job>);

impl Drop for Todo {
    fn drop(&mut self) {
        self.0.close();
        while let Ok(job) = self.0.try_recv() {
            drop(job);
        }
    }
}

/// A [`MoeModel`] on a thread of its own, for asynchronous programs of any runtime. Clones use the
/// same model, one after the other: a stream that is neither read nor dropped keeps the next ones
/// waiting. The model is freed when the last of them, and of their streams,
/// is dropped.
///
/// ```
/// # fn main() -> moe_offload::Result<()> {
/// # let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");
/// use futures_util::StreamExt; // for `next`; any runtime will do
/// use moe_offload::{AsyncModel, GenerateOptions, Message, MoeModel};
///
/// let model = AsyncModel::new(MoeModel::builder(demo).context_tokens(512).load()?)?;
/// futures_executor::block_on(async {
///     let options = GenerateOptions::default().max_tokens(8);
///     let mut answer = model.chat(vec![Message::user("Hello")], options);
///     while let Some(piece) = answer.next().await {
///         print!("{}", piece?);
///     }
///     let stats = model.with(|model| model.stats()).await?;
///     assert!(stats.generated_tokens > 0);
///     Ok(())
/// })
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AsyncModel {
    jobs: Sender<Job>,
}

impl AsyncModel {
    /// Moves the model to its thread.
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no thread to give.
    pub fn new(mut model: MoeModel) -> Result<Self> {
        let (jobs, todo) = async_channel::unbounded::<Job>();
        let todo = Todo(todo);
        let work = move || {
            while let Ok(job) = todo.0.recv_blocking() {
                job(&mut model);
            }
        };
        let thread = thread::Builder::new().name("moe-offload".to_owned()).spawn(work);
        thread.map_err(|source| Error::Io {
            action: "start a thread for",
            path: "the model".into(),
            source,
        })?;
        Ok(Self { jobs })
    }

    /// As [`MoeModel::generate`]; what goes wrong is the stream's first item. Time that it waits for
    /// its turn counts for [`GenerateOptions::max_time`], and [`GenerateOptions::cancel`] ends it then
    /// too.
    pub fn generate(&self, prompt: impl Into<String>, options: GenerateOptions) -> PieceStream {
        let (started, prompt) = (Instant::now(), prompt.into());
        self.stream(started, options, move |model, options, tell| {
            model.generate_since(started, &prompt, options).map(tell)
        })
    }

    /// As [`MoeModel::chat`]; what goes wrong is the stream's first item. Time that it waits for its
    /// turn counts for [`GenerateOptions::max_time`], and [`GenerateOptions::cancel`] ends it then too.
    pub fn chat(&self, messages: Vec<Message>, options: GenerateOptions) -> PieceStream {
        let started = Instant::now();
        self.stream(started, options, move |model, options, tell| {
            model.chat_since(started, &messages, options).map(tell)
        })
    }

    /// Lets the model do anything else, between generations.
    ///
    /// # Errors
    /// [`Error::ModelGone`] if its thread ended by a panic.
    pub async fn with<R: Send + 'static>(
        &self,
        act: impl FnOnce(&mut MoeModel) -> R + Send + 'static,
    ) -> Result<R> {
        let (sender, result) = async_channel::bounded(1);
        let job: Job = Box::new(move |model| {
            // Nobody waits any more if this fails.
            let _ = sender.try_send(act(model));
        });
        self.jobs.try_send(job).map_err(|_| Error::ModelGone)?;
        result.recv().await.map_err(|_| Error::ModelGone)
    }

    fn stream(
        &self,
        started: Instant,
        mut options: GenerateOptions,
        run: impl FnOnce(&mut MoeModel, &GenerateOptions, &dyn Fn(Generation<'_>)) -> Result<()>
        + Send
        + 'static,
    ) -> PieceStream {
        // The stream stops its own generation, and not what else the caller's handle is for.
        let is_limited = options.cancel.is_some() || options.max_time.is_some();
        let cancel = options.cancel.as_ref().map(CancelHandle::child).unwrap_or_default();
        options.cancel = Some(cancel.clone());
        let (sender, told) = async_channel::bounded(PIECES);
        let (turn, at_end) = Turn::new();
        if is_limited {
            watch_turn(&turn.claimed, at_end, options.limits(started), &sender);
        }
        let job: Job = Box::new(move |model| {
            if !turn.begin() {
                return;
            }
            // An error means that the stream was dropped.
            let tell = |generation: Generation<'_>| drop(tell_all(generation, &sender));
            if let Err(error) = run(model, &options, &tell) {
                let _ = sender.send_blocking(Told::Failed(error));
            }
        });
        // What is refused is dropped, and the stream learns of it as of a thread that ends later.
        drop(self.jobs.try_send(job));
        PieceStream {
            told: Box::pin(told),
            jobs: Some(self.jobs.clone()),
            cancel,
            log_probabilities: Vec::new(),
            stop_reason: None,
        }
    }
}

/// The turn of a stream: either the model takes it, or the stream's limits end it first.
struct Turn {
    claimed: Arc<AtomicBool>,
    /// Dropped when the turn has come, or never will.
    _waiting: mpsc::Sender<()>,
}

impl Turn {
    fn new() -> (Self, mpsc::Receiver<()>) {
        let (waiting, at_end) = mpsc::channel();
        (Self { claimed: Arc::default(), _waiting: waiting }, at_end)
    }

    /// Whether it is still the model's to take.
    fn begin(self) -> bool {
        !self.claimed.swap(true, Ordering::AcqRel)
    }
}

/// Ends a stream that waits for its turn when its limits say so: nothing else looks at them then.
fn watch_turn(
    claimed: &Arc<AtomicBool>,
    at_end: mpsc::Receiver<()>,
    limits: Limits,
    sender: &Sender<Told>,
) {
    let (claimed_here, to_stream) = (Arc::clone(claimed), sender.clone());
    let watch = move || {
        while let Err(RecvTimeoutError::Timeout) = at_end.recv_timeout(LOOK_EVERY) {
            let Err(why) = limits.check() else { continue };
            if !claimed_here.swap(true, Ordering::AcqRel) {
                // It is the first that this stream is told, so there is room, unless it is dropped.
                let _ = to_stream.try_send(Told::interrupted(why));
            }
            return;
        }
    };
    let thread = thread::Builder::new().name("moe-offload-turn".to_owned()).spawn(watch);
    // Without the thread its limits could not be kept.
    if let Err(source) = thread
        && !claimed.swap(true, Ordering::AcqRel)
    {
        let (action, path) = ("start a thread for", "a stream that waits".into());
        let _ = sender.try_send(Told::Failed(Error::Io { action, path, source }));
    }
}

/// What the model's thread tells a stream.
#[derive(Debug)]
enum Told {
    Piece { text: String, log_probabilities: Vec<TokenLogProbabilities> },
    Failed(Error),
    Ended { reason: Option<StopReason>, log_probabilities: Vec<TokenLogProbabilities> },
}

impl Told {
    /// The end of a stream that has told nothing yet.
    fn interrupted(why: Error) -> Self {
        match why {
            Error::TimedOut { .. } => {
                let reason = Some(StopReason::TimeLimit);
                Self::Ended { reason, log_probabilities: Vec::new() }
            }
            why => Self::Failed(why),
        }
    }
}

fn tell_all(
    mut generation: Generation<'_>,
    sender: &Sender<Told>,
) -> Result<(), async_channel::SendError<Told>> {
    while let Some(piece) = generation.next() {
        let log_probabilities = generation.take_log_probabilities();
        sender.send_blocking(match piece {
            Ok(text) => Told::Piece { text, log_probabilities },
            Err(error) => Told::Failed(error),
        })?;
    }
    let log_probabilities = generation.take_log_probabilities();
    sender.send_blocking(Told::Ended { reason: generation.stop_reason(), log_probabilities })
}

/// The pieces of a text that is generated; an asynchronous [`Generation`]. Dropped, it stops the
/// model within one token.
#[derive(Debug)]
#[must_use = "a stream does nothing until it is polled"]
pub struct PieceStream {
    told: Pin<Box<Receiver<Told>>>,
    /// Keeps the model until the text is complete; `None` when it is.
    jobs: Option<Sender<Job>>,
    cancel: CancelHandle,
    log_probabilities: Vec<TokenLogProbabilities>,
    stop_reason: Option<StopReason>,
}

impl PieceStream {
    /// Why the text ended; `None` before the stream's end, and after an error.
    ///
    /// ```
    /// # fn main() -> moe_offload::Result<()> {
    /// # let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");
    /// # let model = moe_offload::MoeModel::builder(demo).context_tokens(512).load()?;
    /// # let model = moe_offload::AsyncModel::new(model)?;
    /// use futures_util::{StreamExt, TryStreamExt};
    /// use moe_offload::{GenerateOptions, Message, StopReason};
    ///
    /// futures_executor::block_on(async {
    ///     let options = GenerateOptions::default().max_tokens(8);
    ///     let mut answer = model.chat(vec![Message::user("Hello")], options);
    ///     let text: String = answer.by_ref().try_collect().await?;
    ///     if answer.stop_reason() == Some(StopReason::MaxTokens) {
    ///         println!("{text}...");
    ///     }
    ///     Ok(())
    /// })
    /// # }
    /// ```
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.stop_reason
    }

    /// The log-probabilities of the tokens of the pieces that came since the last call; see
    /// [`Generation::take_log_probabilities`].
    pub fn take_log_probabilities(&mut self) -> Vec<TokenLogProbabilities> {
        std::mem::take(&mut self.log_probabilities)
    }
}

impl Stream for PieceStream {
    type Item = Result<String>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.jobs.is_none() {
            return Poll::Ready(None);
        }
        let item = match ready!(self.told.as_mut().poll_next(context)) {
            Some(Told::Piece { text, log_probabilities }) => {
                self.log_probabilities.extend(log_probabilities);
                return Poll::Ready(Some(Ok(text)));
            }
            Some(Told::Failed(error)) => Some(Err(error)),
            Some(Told::Ended { reason, log_probabilities }) => {
                self.log_probabilities.extend(log_probabilities);
                self.stop_reason = reason;
                None
            }
            // The thread ended without a word: it is no end of the text.
            None => Some(Err(Error::ModelGone)),
        };
        self.jobs = None;
        Poll::Ready(item)
    }
}

impl Drop for PieceStream {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
