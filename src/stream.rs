//! Generation for asynchronous programs: the model on a thread of its own.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use async_channel::{Receiver, Sender};
use futures_core::Stream;

use crate::cancel::CancelHandle;
use crate::chat::Message;
use crate::error::{Error, Result};
use crate::generate::Generation;
use crate::model::MoeModel;
use crate::options::GenerateOptions;

/// Pieces that may wait for the program before the model does.
const PIECES: usize = 16;

/// What the thread is to do with the model.
type Job = Box<dyn FnOnce(&mut MoeModel) + Send>;

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
        let work = move || {
            while let Ok(job) = todo.recv_blocking() {
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

    /// As [`MoeModel::generate`]; what goes wrong is the stream's first item.
    pub fn generate(&self, prompt: impl Into<String>, options: GenerateOptions) -> PieceStream {
        let prompt = prompt.into();
        self.stream(options, move |model, options, send| match model.generate(&prompt, options) {
            Ok(generation) => send(generation),
            Err(error) => Some(error),
        })
    }

    /// As [`MoeModel::chat`]; what goes wrong is the stream's first item.
    pub fn chat(&self, messages: Vec<Message>, options: GenerateOptions) -> PieceStream {
        self.stream(options, move |model, options, send| match model.chat(&messages, options) {
            Ok(generation) => send(generation),
            Err(error) => Some(error),
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
        mut options: GenerateOptions,
        run: impl FnOnce(
            &mut MoeModel,
            &GenerateOptions,
            &dyn Fn(Generation<'_>) -> Option<Error>,
        ) -> Option<Error>
        + Send
        + 'static,
    ) -> PieceStream {
        let cancel = options.cancel.get_or_insert_default().clone();
        let (sender, pieces) = async_channel::bounded(PIECES);
        let job: Job = Box::new(move |model| {
            let send = |generation: Generation<'_>| {
                for piece in generation {
                    // An error means that the stream was dropped.
                    if sender.send_blocking(piece).is_err() {
                        break;
                    }
                }
                None
            };
            if let Some(error) = run(model, &options, &send) {
                let _ = sender.send_blocking(Err(error));
            }
        });
        if let Err(refused) = self.jobs.try_send(job) {
            drop(refused);
        }
        PieceStream { pieces: Box::pin(pieces), jobs: Some(self.jobs.clone()), cancel }
    }
}

/// The pieces of a text that is generated; an asynchronous [`Generation`]. Dropped, it stops the
/// model within one token.
#[derive(Debug)]
#[must_use = "a stream does nothing until it is polled"]
pub struct PieceStream {
    pieces: Pin<Box<Receiver<Result<String>>>>,
    /// Keeps the model until the text is complete.
    jobs: Option<Sender<Job>>,
    cancel: CancelHandle,
}

impl Stream for PieceStream {
    type Item = Result<String>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = self.pieces.as_mut().poll_next(context);
        if matches!(piece, Poll::Ready(None)) {
            self.jobs = None;
        }
        piece
    }
}

impl Drop for PieceStream {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
