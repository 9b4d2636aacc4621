//! Measuring quality: the baseline's logits go to a file, the others are compared with it.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use moe_offload::{MoeModel, Token};

use super::builder::builder;
use super::error::{BenchError, BenchResult};
use super::measure::devices_of;
use super::protocol::{Protocol, QualityProtocol, Setting};
use super::quality::{self, Comparison, Quality};
use super::record::{QualityRecord, Record};

/// Tokens whose logits are held at once.
const STEP: usize = 64;
/// Tokens of the text that the greedy continuation begins with.
const GREEDY_PROMPT: usize = 32;
const MAGIC: [u8; 8] = *b"moebase1";

/// One policy's part; the baseline writes to `scratch`, the others read there.
pub(super) fn quality(
    protocol: &Protocol,
    setting: &Setting,
    scratch: &Path,
) -> BenchResult<Record> {
    let quality = protocol.quality.clone().unwrap_or_default();
    let mut setting_with_room = setting.clone();
    let room = quality.text_tokens.max(quality.greedy_tokens.saturating_add(64));
    setting_with_room.context_tokens = setting.context_tokens.max(room);
    let path = baseline_path(protocol, setting, scratch);
    let is_baseline = setting.policy == protocol.baseline;
    if !is_baseline && !path.exists() {
        let reason = "the baseline's logits are not there: it did not fit, or failed".to_owned();
        let task = super::Task::Quality { setting: setting.clone() }.to_string();
        return Err(BenchError::Task { task, reason });
    }
    let mut model = builder(protocol, &setting_with_room)?.load()?;
    let greedy = greedy(&mut model, &quality)?;
    let found = if is_baseline {
        record_baseline(&mut model, &quality, &greedy, &path)?
    } else {
        compare(&mut model, &quality, &greedy, &path)?
    };
    let devices = devices_of(protocol)?;
    let used = devices.iter().filter(|device| model.plan().device(&device.name).is_some());
    let bounds = used.map(|device| quality::kl_bound_nats(&device.backend));
    let kl_bound_nats = bounds.fold(quality::kl_bound_nats("CPU"), |all, one| Some(all?.max(one?)));
    Ok(Record::Quality(QualityRecord { setting: setting.clone(), quality: found, kl_bound_nats }))
}

fn baseline_path(protocol: &Protocol, setting: &Setting, scratch: &Path) -> PathBuf {
    let number = protocol.models.iter().position(|model| model.name == setting.model);
    scratch.join(format!("baseline-{}.logits", number.unwrap_or(0)))
}

fn text_tokens(model: &MoeModel, quality: &QualityProtocol) -> BenchResult<Vec<Token>> {
    let mut tokens = model.tokenize(&quality.text, true)?;
    tokens.truncate(quality.text_tokens as usize);
    Ok(tokens)
}

/// The likeliest tokens one after the other; an end of text is a token like others.
fn greedy(model: &mut MoeModel, quality: &QualityProtocol) -> BenchResult<Vec<Token>> {
    let mut prompt = text_tokens(model, quality)?;
    prompt.truncate(GREEDY_PROMPT);
    model.forget()?;
    let mut next = prompt;
    let mut chosen = Vec::new();
    while chosen.len() < quality.greedy_tokens as usize && !next.is_empty() {
        let logits = model.evaluate(&next)?;
        let likeliest = logits.rows().next_back().and_then(quality::greatest);
        let likeliest = likeliest.and_then(|number| i32::try_from(number).ok());
        let token = likeliest.map(Token::new).ok_or(BenchError::NotANumber)?;
        chosen.push(token);
        next = vec![token];
    }
    Ok(chosen)
}

/// Calls `each` with the logits after each token of the text but the last, and the next token.
fn walk(
    model: &mut MoeModel,
    tokens: &[Token],
    mut each: impl FnMut(&[f32], Token) -> BenchResult<()>,
) -> BenchResult<()> {
    model.forget()?;
    let Some((_, given)) = tokens.split_last() else { return Ok(()) };
    let mut next = tokens.iter().skip(1);
    for part in given.chunks(STEP) {
        let logits = model.evaluate(part)?;
        for (row, &token) in logits.rows().zip(&mut next) {
            each(row, token)?;
        }
    }
    Ok(())
}

/// The perplexity of what was added.
#[derive(Default)]
struct Surprise {
    tokens: u64,
    nats: f64,
}

impl Surprise {
    fn add(&mut self, logits: &[f32], token: Token) -> BenchResult<()> {
        let place = usize::try_from(token.id()).unwrap_or(usize::MAX);
        let nats = quality::surprise_nats(logits, place).filter(|nats| nats.is_finite());
        self.nats += nats.ok_or(BenchError::NotANumber)?;
        self.tokens += 1;
        Ok(())
    }

    fn quality(&self, greedy: &[Token]) -> Quality {
        #[allow(clippy::cast_precision_loss)] // hundreds of tokens
        let mean = self.nats / self.tokens.max(1) as f64;
        Quality {
            text_tokens: self.tokens,
            perplexity: mean.exp(),
            greedy_tokens: greedy.len() as u64,
            against: None,
        }
    }
}

fn record_baseline(
    model: &mut MoeModel,
    quality: &QualityProtocol,
    greedy: &[Token],
    path: &Path,
) -> BenchResult<Quality> {
    let failed = |source| BenchError::Io { action: "write", path: path.to_owned(), source };
    // Complete or not there at all.
    let part = path.with_extension("part");
    let mut file = BufWriter::new(File::create(&part).map_err(failed)?);
    let tokens = text_tokens(model, quality)?;
    let width = model.vocabulary_tokens();
    let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(failed);
    write(&MAGIC)?;
    for number in [width, tokens.len(), greedy.len()] {
        write(&(number as u64).to_le_bytes())?;
    }
    for token in tokens.iter().chain(greedy) {
        write(&token.id().to_le_bytes())?;
    }
    let mut surprise = Surprise::default();
    walk(model, &tokens, |row, token| {
        row.iter().try_for_each(|logit| write(&logit.to_le_bytes()))?;
        surprise.add(row, token)
    })?;
    file.into_inner().map_err(|error| failed(error.into_error()))?;
    std::fs::rename(&part, path).map_err(failed)?;
    Ok(surprise.quality(greedy))
}

fn compare(
    model: &mut MoeModel,
    quality: &QualityProtocol,
    greedy: &[Token],
    path: &Path,
) -> BenchResult<Quality> {
    let failed = |source| BenchError::Io { action: "read", path: path.to_owned(), source };
    let other = || BenchError::OtherBaseline { path: path.to_owned() };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let tokens = text_tokens(model, quality)?;
    let width = model.vocabulary_tokens();
    let mut eight = [[0_u8; 8]; 4];
    for part in &mut eight {
        file.read_exact(part).map_err(failed)?;
    }
    let [magic, their_width, their_tokens, their_greedy] = eight;
    let numbers = [their_width, their_tokens, their_greedy].map(u64::from_le_bytes);
    let ours = [width, tokens.len(), greedy.len()].map(|number| number as u64);
    if magic != MAGIC || numbers != ours {
        return Err(other());
    }
    let mut read_tokens = |count: usize| -> BenchResult<Vec<Token>> {
        let mut bytes = vec![0; count * size_of::<i32>()];
        file.read_exact(&mut bytes).map_err(failed)?;
        Ok(bytes.as_chunks().0.iter().map(|&four| Token::new(i32::from_le_bytes(four))).collect())
    };
    if read_tokens(tokens.len())? != tokens {
        return Err(other());
    }
    let their_greedy = read_tokens(greedy.len())?;
    let (mut surprise, mut comparison) = (Surprise::default(), Comparison::default());
    let mut bytes = vec![0; width * size_of::<f32>()];
    walk(model, &tokens, |row, token| {
        file.read_exact(&mut bytes).map_err(failed)?;
        let baseline: Vec<f32> =
            bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect();
        comparison.add(&baseline, row);
        surprise.add(row, token)
    })?;
    let against = comparison.finish(&their_greedy, greedy);
    if !against.mean_kl_nats.is_finite() {
        return Err(BenchError::NotANumber);
    }
    Ok(Quality { against: Some(against), ..surprise.quality(greedy) })
}
