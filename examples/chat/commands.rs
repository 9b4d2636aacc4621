//! What a person types: a question, or something for the program.

/// What `/help` prints.
pub(crate) const HELP: &str = "\
/help    this
/clear   begins a new conversation under the same instructions; a session keeps the old one
/stats   all statistics of the last answer
/exit    ends, as do /quit, exit, quit and Ctrl-D
Ctrl-C   stops an answer; what was said of it is kept
A question that begins with / needs a space before it.";

/// A line that was typed.
#[derive(Debug, PartialEq)]
pub(crate) enum Input<'a> {
    Nothing,
    Question(&'a str),
    Help,
    Clear,
    Statistics,
    Exit,
    /// A command with something after it.
    Surplus(&'a str),
    /// A command that there is not.
    Unknown(&'a str),
}

impl<'a> Input<'a> {
    pub(crate) fn of(line: &'a str) -> Self {
        let text = line.trim();
        match text {
            "" => Self::Nothing,
            "exit" | "quit" => Self::Exit,
            _ if !line.starts_with('/') => Self::Question(text),
            "/exit" | "/quit" => Self::Exit,
            "/help" => Self::Help,
            "/clear" => Self::Clear,
            "/stats" => Self::Statistics,
            _ => {
                let word = text.split_whitespace().next().unwrap_or(text);
                // A path is part of a question.
                let is_command = !word[1..].contains('/');
                let is_known = ["/help", "/clear", "/stats", "/exit", "/quit"].contains(&word);
                match is_command {
                    true if is_known => Self::Surplus(word),
                    true => Self::Unknown(word),
                    false => Self::Question(text),
                }
            }
        }
    }
}
