//! Talks with a model under an offload policy. See `--help`.

mod answer;
mod arguments;
mod commands;
#[path = "../common/mod.rs"]
mod common;
mod conversation;
mod files;
mod session;
#[path = "../common/speed.rs"]
mod speed;
#[path = "../common/template.rs"]
mod template;
mod terminal;

use std::sync::mpsc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use moe_offload::{
    CancelHandle, Error, GenerateOptions, Message, MoeModel, Plan, Result, Role, StopReason,
};

use self::arguments::{Arguments, StatsFormat};
use self::commands::{HELP, Input};
use self::common::{say, warn};
use self::conversation::Conversation;
use self::files::Shape;
use self::session::Session;
use self::terminal::{Line, Terminal};

fn main() {
    let arguments = common::arguments_of_writer();
    match run(&arguments) {
        Ok(0) => {}
        Ok(status) => std::process::exit(status),
        Err(error) => common::fail(&told(&error, arguments.plan.is_some())),
    }
}

/// An error with the options that set what it names. A stored plan has its own context.
fn told(error: &Error, by_plan: bool) -> String {
    let text = common::words(error);
    if by_plan { text.replace("`--context`", "`--context` of `plan --freeze`") } else { text }
}

/// Returns the program's status.
fn run(arguments: &Arguments) -> Result<i32> {
    let options = arguments.options()?;
    if let Some(note) = arguments.note() {
        say(&note);
    }
    let (session, messages) = match &arguments.session {
        Some(path) => {
            let (session, messages) = Session::open(path)?;
            (Some(session), messages)
        }
        None => (None, Vec::new()),
    };
    let model = load(arguments)?;
    let mut talk = Talk {
        model,
        session,
        conversation: Conversation::new(messages),
        options,
        stats: arguments.stats,
        by_plan: arguments.plan.is_some(),
        told: [const { String::new() }; 2],
        status: 0,
    };
    // Before anything is said of keys that it takes.
    let mut terminal = arguments.prompt.is_none().then(Terminal::new);
    let unanswered = talk.go_on(arguments.system.as_deref())?;
    match (&arguments.prompt, &mut terminal) {
        (Some(prompt), _) => talk.turn(prompt, &CancelHandle::new())?,
        (None, Some(terminal)) => talk.converse(terminal, unanswered.as_deref())?,
        (None, None) => {}
    }
    talk.end()
}

fn load(arguments: &Arguments) -> Result<MoeModel> {
    let bar = ProgressBar::new(1000);
    bar.set_style(ProgressStyle::with_template("loading  {bar:40} {percent} %").expect("is valid"));
    let progress = bar.clone();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 0 to 1000
    let mut builder = MoeModel::builder(&arguments.model)
        .policy(arguments.policy.clone())
        .on_progress(move |done| progress.set_position((done * 1000.0) as u64));
    if let Some(tokens) = arguments.context {
        builder = builder.context_tokens(tokens);
    }
    builder = arguments.speed.apply(builder);
    if let Some(warning) = arguments.speed.warning() {
        say(&warning);
    }
    if let Some(path) = &arguments.plan {
        let remedy = "store one by `plan --freeze`";
        let plan: Plan = files::json(path, &files::read(path)?, Shape::Plan, remedy)?;
        builder = builder.plan(plan);
    }
    for endpoint in &arguments.rpc {
        say(&format!("connecting to {endpoint} (waits while it serves another process)"));
        builder = builder.rpc_server(endpoint);
    }
    for (device, bytes) in &arguments.overhead {
        builder = builder.device_overhead(device, *bytes);
    }
    let model = builder.load();
    bar.finish_and_clear();
    let model = model?;
    say(model.plan());
    warn(model.warnings());
    for note in arguments.speed.notes(&model) {
        say(&note);
    }
    Ok(model)
}

/// No network between a program and its server is slower for long.
const SLOW_NETWORK_BYTES_PER_SECOND: u64 = 10 << 20;

/// What of a session can fail to be kept.
const MESSAGES: usize = 0;
const STATE: usize = 1;

/// A model, what was said, and where it is kept.
struct Talk {
    model: MoeModel,
    session: Option<Session>,
    conversation: Conversation,
    options: GenerateOptions,
    stats: StatsFormat,
    /// Whether its context is a stored plan's.
    by_plan: bool,
    /// Why the session's messages and state could not be kept, as long as it is so and was told.
    told: [String; 2],
    /// What the program ends with.
    status: i32,
}

impl Talk {
    /// Tells what there is to go on with. Returns a question that was never answered.
    fn go_on(&mut self, system: Option<&str>) -> Result<Option<String>> {
        if let Some(session) = &self.session {
            session.restore(self.conversation.messages().len(), &mut self.model);
        }
        // Its program ended before the answer did.
        let whole = self.conversation.messages().to_vec();
        let unanswered = self.conversation.withdraw();
        if let Some(question) = &unanswered {
            let kept = match &self.session {
                Some(session) if !terminal::has_editor() => {
                    format!("kept in {}", session.copy(&whole)?.display())
                }
                _ => "removed; press ↑ to ask it again".to_owned(),
            };
            say(&format!("(the last question was never answered, so it was {kept}: {question})"));
        }
        if let Some(system) = system {
            self.conversation.instruct(system);
        }
        if !answer::can_converse(&self.model, &self.options) {
            let has_variables = !self.options.template.variables.is_empty();
            let idle = [("--system", system.is_some()), ("--template", has_variables)];
            if let Some((option, _)) = idle.iter().find(|(_, is_given)| *is_given) {
                common::fail(&format!(
                    "the model has no chat template, so {option} would change nothing; leave it out"
                ));
            }
            say(&"(the model has no chat template: each question is continued as plain text)");
        }
        self.look_at_template();
        Ok(unanswered)
    }

    /// Says what the model's template does not do of what was asked for.
    fn look_at_template(&self) {
        let template = self.model.chat_template();
        template::warn_of_template(template, &self.options.template);
        let Ok(template) = template else { return };
        let mut names = self.options.template.variables.keys();
        if let Some(name) = names.find(|name| !template.asks_for(name)) {
            common::fail(&format!(
                "the model's chat template asks for no `{name}`, so --template {name}=… would change nothing; leave it out"
            ));
        }
    }

    /// Reads questions until the end of input. The arrow keys bring back earlier ones.
    fn converse(&mut self, terminal: &mut Terminal, unanswered: Option<&str>) -> Result<()> {
        let is_question = |message: &&Message| message.role == Role::User;
        let questions = self.conversation.messages().iter().filter(is_question);
        let questions = questions.map(|message| &*message.content).chain(unanswered);
        terminal.welcome(questions);
        loop {
            let line = match terminal.read() {
                Ok(Some(Line::Text(line))) => line,
                Ok(Some(Line::Nothing)) => continue,
                Ok(Some(Line::Dropped)) => {
                    self.fail(terminal);
                    continue;
                }
                Ok(None) => break,
                // What was said until then is kept all the same.
                Err(error) => {
                    say(&format!("error: {error}"));
                    self.status = 1;
                    break;
                }
            };
            match Input::of(&line) {
                Input::Nothing => {}
                Input::Exit => break,
                Input::Help => say(&HELP),
                Input::Statistics => say(&self.model.stats()),
                Input::Clear => self.clear(),
                Input::Surplus(command) => {
                    say(&format!("{command} takes nothing after it; nothing was done"));
                }
                Input::Unknown(command) => {
                    say(&format!("there is no {command}; /help lists what there is"));
                }
                Input::Question(question) => match self.turn(question, &terminal.cancel()) {
                    Err(error) if is_final(&error) => return Err(error),
                    Err(Error::Cancelled { .. }) | Ok(()) => {}
                    Err(error) => {
                        say(&format!("error: {}", told(&error, self.by_plan)));
                        self.fail(terminal);
                    }
                },
            }
        }
        Ok(())
    }

    /// A question got no answer. Where nobody reads that, the status tells it.
    fn fail(&mut self, terminal: &Terminal) {
        if !terminal.has_person() {
            self.status = 1;
        }
    }

    /// A question and its answer. What comes of them is on disk afterwards, whatever happens.
    fn turn(&mut self, question: &str, cancel: &CancelHandle) -> Result<()> {
        self.conversation.ask(question);
        self.keep();
        let options = self.options.clone().cancel(cancel);
        let answered = answer::answer(
            &mut self.model,
            &mut self.conversation,
            &options,
            self.stats,
            self.by_plan,
        );
        match &answered {
            // Then the question stays in the file, for the next time.
            Err(error) if is_final(error) => {
                self.keep();
                return answered.map(|_| ());
            }
            Err(error) => {
                let is_unanswered = self.conversation.withdraw().is_some();
                if matches!(error, Error::Cancelled { .. }) {
                    let back = terminal::to_get_back();
                    let early = format!(
                        "(stopped before the answer began; the question was dropped{back})"
                    );
                    say(&if is_unanswered { early } else { "(stopped)".to_owned() });
                }
            }
            Ok(_) => {}
        }
        let is_kept = self.keep();
        // What was silent during the answer would be waited for again. What keeps the messages off the disk
        // keeps the state off it too.
        if matches!(&answered, Ok(reason) if *reason != Some(StopReason::TimeLimit))
            && let Some(session) = self.session.as_ref().filter(|_| is_kept)
        {
            let saved = session.save_small_state(&mut self.model);
            self.tell(saved, STATE);
        }
        answered.map(|_| ())
    }

    /// Writes the messages, and returns whether they are on disk. An error is told and tried again by the next
    /// turn: the conversation itself can go on.
    fn keep(&mut self) -> bool {
        let Some(session) = &mut self.session else { return true };
        let saved = session.save(self.conversation.messages());
        self.tell(saved, MESSAGES)
    }

    /// Tells why the messages or the state were not kept, once as long as it is the same. Returns whether they
    /// were.
    fn tell(&mut self, saved: Result<()>, what: usize) -> bool {
        let error = saved.err().map(|error| error.to_string());
        if let Some(error) = error.as_ref().filter(|error| **error != self.told[what]) {
            say(&format!("error: {error}"));
        }
        self.told[what] = error.unwrap_or_default();
        self.told[what].is_empty()
    }

    /// The old conversation stays on disk, beside the new one's file.
    fn clear(&mut self) {
        let set_aside = |session: &mut Session| session.set_aside(self.conversation.messages());
        match self.session.as_mut().map_or(Ok(None), set_aside) {
            Ok(Some(old)) => {
                say(&format!("(a new conversation; the old one is {})", old.display()));
            }
            Ok(None) => say(&"(a new conversation)"),
            Err(error) => {
                say(&format!("error: {error}"));
                return;
            }
        }
        self.conversation.clear();
    }

    /// Returns the program's status. What was not kept makes it 1, and is told unless it was.
    fn end(mut self) -> Result<i32> {
        if !self.keep() {
            return Ok(1);
        }
        let Some(session) = &self.session else { return Ok(self.status) };
        let has_servers = self.model.plan().devices().iter().any(|device| device.server.is_some());
        if has_servers {
            return self.save_state_in_time();
        }
        let saved = session.save_state(&mut self.model);
        Ok(if self.tell(saved, STATE) { self.status } else { 1 })
    }

    /// Part of the state may be at a server, which may not answer. The conversation is on disk.
    fn save_state_in_time(self) -> Result<i32> {
        let Self { mut model, session: Some(session), status, told, .. } = self else {
            return Ok(0);
        };
        let seconds = 2 + session::state_bytes(&model) / SLOW_NETWORK_BYTES_PER_SECOND;
        let state = session.state();
        let (sender, saved) = mpsc::channel();
        std::thread::spawn(move || {
            // Nobody waits any more if this fails.
            let _ = sender.send(session.save_state(&mut model));
        });
        let saved = saved.recv_timeout(Duration::from_secs(seconds)).unwrap_or_else(|_| {
            say(&format!(
                "(a server did not answer within {seconds} s, so {} was not written; the conversation is saved)",
                state.display()
            ));
            std::process::exit(status);
        });
        match saved {
            Err(error) if error.to_string() == told[STATE] => Ok(1),
            saved => saved.map(|()| status),
        }
    }
}

/// Whether nothing more will work.
fn is_final(error: &Error) -> bool {
    matches!(
        error,
        Error::ContextLost
            | Error::RpcLost { .. }
            | Error::Io { .. }
            | Error::FileChanged { .. }
            | Error::WrongBytes { .. }
            | Error::Paging { .. }
    )
}
