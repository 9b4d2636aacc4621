//! Conversations on the demo model: the time to the first token turn by turn, and several answers
//! generated together against one by one, on any model.
//!
//! `cargo run --release -p moe-offload-benches --bin conversation -- [MODEL]`

use std::time::Instant;

use moe_offload::{GenerateOptions, Message, MoeModel, Sampling};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/demo-model/demo-moe.gguf");
const TURNS: usize = 10;
const RUNS: usize = 15;
const SEQUENCES: usize = 4;
const TOKENS: u64 = 24;

fn main() -> moe_offload::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| DEMO.to_owned());
    turns(&path)?;
    together(&path)
}

/// A list's middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn turns(path: &str) -> moe_offload::Result<()> {
    let options = GenerateOptions::default().sampling(Sampling::greedy()).max_tokens(TOKENS);
    let mut first_token = vec![Vec::new(); TURNS];
    let mut model = MoeModel::builder(path).context_tokens(4096).load()?;
    for _ in 0..RUNS {
        let mut talk = Vec::new();
        for (turn, times) in first_token.iter_mut().enumerate() {
            talk.push(Message::user(format!("What is {turn} plus 4?")));
            // The answer is given, so that every turn is as long as the others.
            model.chat(&talk, &options)?.text()?;
            talk.push(Message::assistant("It is a number."));
            times.push(model.stats().first_token_seconds.unwrap_or(0.0));
        }
    }
    let medians: Vec<f64> = first_token.into_iter().map(median).collect();
    println!("time to the first token, median of {RUNS} conversations");
    for (turn, seconds) in medians.iter().enumerate() {
        println!("turn {:>2}  {:>7.2} ms", turn + 1, seconds * 1e3);
    }
    println!("turn 10 against turn 2: {:.2}\n", medians[TURNS - 1] / medians[1]);
    Ok(())
}

fn together(path: &str) -> moe_offload::Result<()> {
    let sequences = u32::try_from(SEQUENCES).expect("is small");
    // Never the end of the text: a bias would cost, a grammar too, so unlikely tokens are drawn.
    let sampling = Sampling::default().seed(7).temperature(1.5);
    let options = GenerateOptions::default().sampling(sampling).max_tokens(TOKENS);
    let prompts = ["One", "The experts", "What is", "A plan"];
    let mut model = MoeModel::builder(path).context_tokens(1024).sequences(sequences).load()?;
    let mut ratios = Vec::new();
    let (mut alone_rate, mut together_rate) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let started = Instant::now();
        let mut tokens = 0;
        for prompt in prompts {
            model.generate(prompt, &options)?.text()?;
            tokens += model.stats().generated_tokens;
        }
        let alone = tokens as f64 / started.elapsed().as_secs_f64();
        let started = Instant::now();
        let texts = model.generate_together(&prompts, &options)?.texts()?;
        let seconds = started.elapsed().as_secs_f64();
        assert_eq!(texts.len(), SEQUENCES);
        // Each is sampled as alone, so the tokens are as many.
        let together = tokens as f64 / seconds;
        ratios.push(together / alone);
        alone_rate.push(alone);
        together_rate.push(together);
    }
    println!(
        "{SEQUENCES} texts of at most {TOKENS} tokens, prompts included: one by one {:.1} tokens/s, \
         together {:.1} tokens/s, ratio {:.2} (median of {RUNS} pairs)",
        median(alone_rate),
        median(together_rate),
        median(ratios)
    );
    Ok(())
}
