//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, ValueEnum};
use moe_offload::{GenerateOptions, OffloadPolicy, Overflow, Result, Sampling, Structure};

use crate::speed::SpeedArguments;
use crate::{common, files};

/// The small model that comes with the repository.
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");

/// Talks with a mixture-of-experts model whose experts are placed by a policy.
///
/// Without --prompt it holds a conversation: Ctrl-C stops an answer, Ctrl-D ends, /help lists more.
/// The answer goes to standard output, everything else to standard error.
#[derive(Parser)]
pub(crate) struct Arguments {
    /// The model, a GGUF file; of a split model the first. Default: the demo model
    #[arg(long, default_value = DEMO, hide_default_value = true)]
    pub(crate) model: PathBuf,
    /// Where tensors go: none, all-experts, first-layers:N, last-layers:N, layers:0-3,7 or
    /// regex:PATTERN, each followed by =DEVICE, =cpu or =disk (=cpu is the default but for regex),
    /// joined by `;`, at the end fit, fit:BUDGET or fit:-MARGIN, with what it may give up and how
    /// much CPU memory it may use before experts stay on disk:
    /// fit:10GiB,cache-to-host,fewer-layers,ram:24GiB
    #[arg(long, default_value_t, allow_hyphen_values = true)]
    pub(crate) policy: OffloadPolicy,
    /// Load by a plan that `plan --freeze` stored, instead of a policy; its context is the plan's
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["policy", "context", "micro_batch", "no_operation_offload", "expert_offload_tokens", "overhead"])]
    pub(crate) plan: Option<PathBuf>,
    /// Answer this and end
    #[arg(long)]
    pub(crate) prompt: Option<String>,
    /// Instructions for the whole conversation
    #[arg(long)]
    pub(crate) system: Option<String>,
    /// Tokens that prompt and answer can have together
    #[arg(long, allow_negative_numbers = true, value_parser = common::whole::<u32>)]
    pub(crate) context: Option<u32>,
    /// Most tokens of an answer
    #[arg(long, allow_negative_numbers = true, value_parser = common::whole::<u64>)]
    max_tokens: Option<u64>,
    /// 0 for always the likeliest token, higher for more variety
    #[arg(long, default_value_t = 0.7, allow_negative_numbers = true)]
    temperature: f32,
    /// The same seed gives the same answer; without it 0
    #[arg(long, allow_negative_numbers = true, value_parser = common::whole::<u32>)]
    seed: Option<u32>,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Answer with JSON that this schema allows
    #[arg(long, value_name = "FILE", conflicts_with = "grammar")]
    json_schema: Option<PathBuf>,
    /// Answer with a text of this grammar (GBNF)
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
    /// End the answer before this text; may be repeated
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    stop: Vec<String>,
    /// Longest time of an answer
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = common::whole::<u64>)]
    max_seconds: Option<u64>,
    /// A variable of the chat template, such as `enable_thinking=false` or `effort=high`; what is no JSON
    /// is a text, but for words like `False` and numbers like `01`, which are refused; may be repeated
    #[arg(long, value_name = "NAME=JSON", value_parser = variable)]
    template: Vec<(String, serde_json::Value)>,
    #[command(flatten)]
    pub(crate) speed: SpeedArguments,
    /// Keep the conversation in this file (JSON) and go on with what is there. It is written before
    /// and after each answer, with the model's state beside it (`FILE.state`), so that nothing of it is
    /// computed again; a state of more than 256 MiB is written at the end
    #[arg(long, value_name = "FILE")]
    pub(crate) session: Option<PathBuf>,
    /// Use the devices of this RPC server too; may be repeated
    #[arg(long, value_name = "HOST:PORT", value_parser = endpoint)]
    pub(crate) rpc: Vec<String>,
    /// Memory of a device to hold back for what it takes beside the model, such as CUDA0=300MiB; 0B for none.
    /// May be repeated
    #[arg(long, value_name = "NAME=BYTES", value_parser = named_bytes)]
    pub(crate) overhead: Vec<(String, u64)>,
    /// What to print after each answer: a line of statistics, all as a table (also without a value),
    /// all as JSON on standard output, or none
    #[arg(long, value_enum, num_args = 0..=1, value_name = "FORMAT")]
    #[arg(default_value = "line", default_missing_value = "table")]
    pub(crate) stats: StatsFormat,
}

impl Arguments {
    /// How answers are generated.
    pub(crate) fn options(&self) -> Result<GenerateOptions> {
        let sampling = self.sampling.sampling();
        let mut options = GenerateOptions::default()
            .sampling(sampling.temperature(self.temperature).seed(self.seed.unwrap_or(0)));
        options.max_tokens = self.max_tokens;
        options.max_time = self.max_seconds.map(Duration::from_secs);
        options.stop.clone_from(&self.stop);
        options.overflow = Overflow::DropOldestTurns;
        for (name, value) in &self.template {
            let before = options.template.variables.insert(name.clone(), value.clone());
            if let Some(before) = before {
                common::fail(&format!(
                    "--template sets `{name}` twice, to {before} and to {value}; give it once"
                ));
            }
        }
        if let Some(path) = &self.json_schema {
            options.structure = Some(Structure::JsonSchema(files::read_schema(path)?));
        }
        if let Some(path) = &self.grammar {
            options.structure = Some(Structure::Grammar(files::read_form(path)?));
        }
        options.validate()?;
        Ok(options)
    }

    /// What was given and changes nothing, as there is no choice.
    pub(crate) fn note(&self) -> Option<String> {
        let SamplingArguments { top_k, top_p, min_p, typical_p, xtc, mirostat, .. } =
            &self.sampling;
        let given = [
            ("--seed", self.seed.is_some()),
            ("--top-k", top_k.is_some()),
            ("--top-p", top_p.is_some()),
            ("--min-p", min_p.is_some()),
            ("--typical-p", typical_p.is_some()),
            ("--xtc", xtc.is_some()),
            ("--mirostat", mirostat.is_some()),
        ];
        let given = given.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name);
        let given: Vec<&str> = given.collect();
        let is_idle = self.temperature == 0.0 && !given.is_empty();
        is_idle.then(|| {
            format!(
                "what {} would do is not done: at --temperature 0 always the likeliest token is taken",
                given.join(", ")
            )
        })
    }
}

/// How tokens are chosen, apart from temperature and seed.
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArguments {
    #[arg(long, allow_negative_numbers = true, value_parser = common::whole::<u32>, help = "Only so many of the likeliest tokens; 0 for all")]
    top_k: Option<u32>,
    #[arg(
        long,
        allow_negative_numbers = true,
        help = "Only the likeliest tokens of together this probability"
    )]
    top_p: Option<f32>,
    #[arg(
        long,
        allow_negative_numbers = true,
        help = "Only tokens at least this fraction as likely as the likeliest"
    )]
    min_p: Option<f32>,
    #[arg(
        long,
        allow_negative_numbers = true,
        help = "Only the most typical tokens of together this probability"
    )]
    typical_p: Option<f32>,
    #[arg(
        long,
        allow_negative_numbers = true,
        help = "How often XTC leaves out the likeliest of several good tokens"
    )]
    xtc: Option<f32>,
    #[arg(
        long,
        allow_negative_numbers = true,
        help = "Divides the score of tokens that occurred lately"
    )]
    repeat_penalty: Option<f32>,
    #[arg(
        long,
        allow_negative_numbers = true,
        help = "Taken from the score of a token for each time it occurred lately"
    )]
    frequency_penalty: Option<f32>,
    #[arg(
        long,
        allow_negative_numbers = true,
        help = "Taken from the score of tokens that occurred lately"
    )]
    presence_penalty: Option<f32>,
    #[arg(
        long,
        allow_negative_numbers = true,
        help = "Strength of DRY, against repeating sequences"
    )]
    dry: Option<f32>,
    #[arg(long, allow_negative_numbers = true, value_parser = common::whole::<u8>, help = "Mirostat 1 or 2 instead of cutting off unlikely tokens")]
    #[arg(conflicts_with_all = ["top_k", "top_p", "min_p", "typical_p", "xtc"])]
    mirostat: Option<u8>,
}

impl SamplingArguments {
    fn sampling(&self) -> Sampling {
        let mut sampling = Sampling::default();
        let mut set = |value: Option<f32>, field: fn(&mut Sampling) -> &mut f32| {
            if let Some(value) = value {
                *field(&mut sampling) = value;
            }
        };
        set(self.top_p, |sampling| &mut sampling.top_p);
        set(self.min_p, |sampling| &mut sampling.min_p);
        set(self.typical_p, |sampling| &mut sampling.typical_p);
        set(self.xtc, |sampling| &mut sampling.xtc_probability);
        set(self.repeat_penalty, |sampling| &mut sampling.repeat_penalty);
        set(self.frequency_penalty, |sampling| &mut sampling.frequency_penalty);
        set(self.presence_penalty, |sampling| &mut sampling.presence_penalty);
        set(self.dry, |sampling| &mut sampling.dry.get_or_insert_default().multiplier);
        sampling.top_k = self.top_k.unwrap_or(sampling.top_k);
        if let Some(version) = self.mirostat {
            sampling.mirostat.get_or_insert_default().version = version;
        }
        sampling
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum StatsFormat {
    Line,
    Table,
    Json,
    None,
}

/// Words that are meant for no text, and what they are in JSON. A template takes any text for true.
const NO_TEXTS: [(&str, &str); 12] = [
    ("true", "true"),
    ("yes", "true"),
    ("on", "true"),
    ("false", "false"),
    ("no", "false"),
    ("off", "false"),
    ("none", "null"),
    ("null", "null"),
    ("nil", "null"),
    ("undefined", "null"),
    ("nan", "null"),
    ("inf", "null"),
];

/// A value that is not JSON counts as a text, unless it looks like something else.
fn variable(text: &str) -> Result<(String, serde_json::Value), String> {
    let (name, value) = text.split_once('=').ok_or("it needs NAME=JSON")?;
    let json = match serde_json::from_str(value) {
        Ok(json) => json,
        Err(error) => plain_text(name, value.trim(), &error)?,
    };
    Ok((name.to_owned(), json))
}

fn plain_text(
    name: &str,
    value: &str,
    error: &serde_json::Error,
) -> Result<serde_json::Value, String> {
    let as_text = |value: &str| format!("for the text write '{name}=\"{value}\"'");
    let written = NO_TEXTS.iter().find(|(word, _)| value.eq_ignore_ascii_case(word));
    if let Some((_, json)) = written {
        return Err(format!("`{value}` is not JSON; write {name}={json}, or {}", as_text(value)));
    }
    let is_number = || value.replace('_', "").parse::<f64>().is_ok();
    if value.is_empty() || is_number() || value.starts_with(['[', '{', '"', '\'']) {
        let shown = value.trim_matches(['"', '\'']);
        return Err(format!("`{value}` is not JSON ({error}); {}", as_text(shown)));
    }
    Ok(value.into())
}

fn endpoint(text: &str) -> Result<String, &'static str> {
    let Some((host, port)) = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()) else {
        return Err("it needs HOST:PORT");
    };
    match port.parse::<u16>() {
        Ok(1..) if !host.contains(',') => Ok(text.to_owned()),
        _ if host.contains(',') => {
            Err("it needs HOST:PORT, one; give the option again for another")
        }
        _ => Err("it needs HOST:PORT, with a port from 1 to 65535"),
    }
}

fn named_bytes(text: &str) -> Result<(String, u64), String> {
    let (name, bytes) = text.rsplit_once('=').ok_or("write NAME=BYTES, as in CUDA0=300MiB")?;
    let bytes = moe_offload::plan::parse_bytes(bytes).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), bytes))
}
