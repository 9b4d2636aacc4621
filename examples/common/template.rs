//! What a model's chat template does not do, said before anybody relies on it.

use moe_offload::error::TemplateFault;
use moe_offload::{ChatTemplate, Error, Message, Role, TemplateOptions};

use super::common::say;

/// Says so where the model's own template works for no conversation, or leaves out a part of one. It is no reason to
/// refuse the file: texts that are no conversations need none, and the engine may know the format.
pub(crate) fn warn_of_template(template: Result<&ChatTemplate, &Error>, options: &TemplateOptions) {
    match template.map(|template| (template, template.render(&[Message::user("Hello")], options))) {
        // It has words for this conversation, and may take others.
        Ok((_, Err(Error::ChatTemplate { fault: TemplateFault::Raised { .. } }))) => {}
        Ok((_, Err(error))) => cannot_be_used(&error),
        Ok((template, Ok(_))) => warn_of_parts(template, options),
        Err(error) => cannot_be_used(error),
    }
}

fn cannot_be_used(error: &Error) {
    if let Error::ChatTemplate { fault } = error {
        say(&format!(
            "warning: the model's chat template cannot be used: {fault}; conversations need a format that llama.cpp \
             knows by itself, or one of your own"
        ));
    }
}

/// Instructions go with the first question alone: some templates take no others.
fn warn_of_parts(template: &ChatTemplate, options: &TemplateOptions) {
    let instructed =
        [Message::system("Answer in rhymes."), Message::user("How warm is it in Bern?")];
    let turns = [
        Message::user("How warm is it in Bern?"),
        Message::assistant("18 degrees."),
        Message::user("And in Rome?"),
    ];
    let left_out = |talk: &[Message]| -> Vec<Role> {
        let places = template.left_out(talk, options).unwrap_or_default();
        places.into_iter().map(|i| talk[i].role).collect()
    };
    let roles = [left_out(&instructed), left_out(&turns)].concat();
    for (role, what) in [
        (Role::System, "instructions"),
        (Role::User, "questions"),
        (Role::Assistant, "earlier answers"),
    ] {
        if roles.contains(&role) {
            say(&format!(
                "warning: the model's chat template leaves out {what}, so the model never sees them"
            ));
        }
    }
}
