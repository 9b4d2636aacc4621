//! Formats of texts, as patterns.

/// The pattern of texts that have this format; some have stranger ones too.
pub(super) fn pattern(format: &str) -> Option<String> {
    let time = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)";
    let date = r"((000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))|(\d\d(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)-02-29)";
    let label = "[a-z0-9]([a-z0-9]|-[a-z0-9]){0,30}";
    let byte = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)";
    let pattern = match format {
        "date" => date.to_owned(),
        "time" => time.to_owned(),
        "date-time" => format!("{date}T{time}"),
        "duration" => {
            r"P(\d{1,9}W|(\d{1,9}Y)(\d{1,9}M(\d{1,9}D)?)?(T\d{1,9}H(\d{1,9}M(\d{1,9}S)?)?)?|\d{1,9}D(T\d{1,9}H(\d{1,9}M(\d{1,9}S)?)?)?|T(\d{1,9}H(\d{1,9}M(\d{1,9}S)?)?|\d{1,9}M(\d{1,9}S)?|\d{1,9}S))".to_owned()
        }
        "uuid" => "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}".to_owned(),
        "hostname" => format!(r"{label}(\.{label}){{0,3}}"),
        "email" => format!(r"[a-zA-Z0-9]([a-zA-Z0-9]|[._+-][a-zA-Z0-9]){{0,30}}@{label}(\.{label}){{1,3}}"),
        "ipv4" => format!(r"{byte}(\.{byte}){{3}}"),
        "ipv6" => "[0-9a-fA-F]{1,4}(:[0-9a-fA-F]{1,4}){7}".to_owned(),
        "uri" => format!(r"https?://{label}(\.{label}){{0,3}}(:[1-9]\d{{0,3}})?(/[a-zA-Z0-9._~-]*)*(\?[a-zA-Z0-9._~=&-]*)?(#[a-zA-Z0-9._~-]*)?"),
        _ => return None,
    };
    Some(format!("^({pattern})$"))
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    /// Calendars of programs begin with the year 1.
    #[test]
    fn dates_are_days_of_the_calendar() {
        let date = Regex::new(&format!("^{}$", pattern("date").unwrap())).unwrap();
        for day in
            ["0001-01-01", "0004-02-29", "0999-12-31", "2000-02-29", "2024-02-29", "9999-12-31"]
        {
            assert!(date.is_match(day), "{day}");
        }
        for none in ["0000-12-10", "0000-02-29", "1900-02-29", "2023-02-29", "2024-04-31"] {
            assert!(!date.is_match(none), "{none}");
        }
    }
}
