//! What the engine says of a file, before any of its weights are read.

use std::path::Path;

use regex::Regex;

use super::MoeModelBuilder;
use crate::chat::{ChatTemplate, Message, TemplateOptions};
use crate::context::ContextOptions;
use crate::engine::{DryRun, LoadSettings, Weights};
use crate::error::{Error, ModelFault, Result};
use crate::policy::OffloadPolicy;
use crate::preflight::Warning;

/// Tokens of the context: what the engine refuses to make does not depend on their number.
const CONTEXT_TOKENS: u32 = 256;
/// A text of which every tokenizer of a text model makes tokens. In those that know bytes no character is unknown.
const PROBE: &str = "Hello world";

impl MoeModelBuilder {
    /// Whether the engine takes the file: goes through loading it into CPU memory, its vocabulary included, and
    /// through making a small context, but allocates no weights and reads none. What [`load`](Self::load) says of
    /// the file itself this says too, in the same words, also of a file without weights and on a machine that
    /// could not hold them; devices, policy and sizes have no part in it.
    ///
    /// Returns what only the engine knows of [`MoeModel::warnings`](crate::MoeModel::warnings);
    /// [`preflight::warnings`](crate::preflight::warnings) has the others.
    ///
    /// It takes time for the vocabulary, and little for anything else: some tenths of a second for one of 200,000
    /// tokens.
    ///
    /// ```
    /// use moe_offload::MoeModel;
    ///
    /// MoeModel::builder("examples/demo-model/demo-moe.gguf").dry_load()?;
    /// # Ok::<(), moe_offload::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`preflight::check`](crate::preflight::check); [`Error::LoadFailed`] and [`Error::Engine`] with the engine's
    /// reason; [`Error::UnsafeModel`] if its tokenizer makes no tokens of a text; [`Error::Cancelled`].
    pub fn dry_load(&self) -> Result<Vec<Warning>> {
        let gguf = self.open_file()?;
        let context =
            ContextOptions { context_tokens: Some(CONTEXT_TOKENS), ..ContextOptions::default() };
        let plan = OffloadPolicy::None.plan(&gguf, &[], &context)?;
        let settings = LoadSettings {
            cancel: self.load.cancel.clone(),
            dry_run: Some(DryRun::with_vocabulary()),
            ..LoadSettings::default()
        };
        let (weights, _) = self.open(&gguf, &plan, settings)?;
        check_tokenizer(&weights, gguf.path())?;
        let template = ChatTemplate::from_gguf(&gguf).ok();
        split_marker(template.as_ref(), &weights).map(Vec::from_iter)
    }
}

/// The engine lets a tokenizer go with any vocabulary, and then fails at the first text.
pub(super) fn check_tokenizer(weights: &Weights, path: &Path) -> Result<()> {
    let count = weights.vocabulary_tokens();
    let is_there = |&token: &i32| usize::try_from(token).is_ok_and(|token| token < count);
    let reason = match weights.tokenize(PROBE, false) {
        Ok(tokens) if tokens.iter().all(is_there) => return Ok(()),
        Ok(_) => "a part of it is no token".to_owned(),
        Err(error) => error.to_string(),
    };
    let fault = ModelFault::UnfitTokenizer { text: PROBE, reason };
    Err(Error::UnsafeModel { path: path.to_owned(), fault })
}

/// A marker of the chat template that is no token, if there is one.
pub(super) fn split_marker(
    template: Option<&ChatTemplate>,
    weights: &Weights,
) -> Result<Option<Warning>> {
    let question = [Message::user("Hello")];
    let render = |template: &ChatTemplate| template.render(&question, &TemplateOptions::default());
    // What is wrong with a template is told when it is used.
    let Some(text) = template.and_then(|template| render(template).ok()) else { return Ok(None) };
    let Ok(markers) = Regex::new(r"<\|[^|<>\s]+\|>") else { return Ok(None) };
    for marker in markers.find_iter(&text) {
        let tokens = weights.tokenize(marker.as_str(), false)?.len();
        if tokens > 1 {
            return Ok(Some(Warning::SplitMarker { marker: marker.as_str().to_owned(), tokens }));
        }
    }
    Ok(None)
}
