//! What is given as a path and is somewhere else.

use std::path::Path;

/// How to get a model that is named by an address, or by owner and name as Hugging Face and Ollama do; `None` for
/// anything that can be a path.
pub(super) fn how_to_get(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let has_scheme =
        |scheme: &str| text.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme));
    if has_scheme("https://") || has_scheme("http://") {
        let page = "the address of the .gguf file itself, not of a page about it";
        return Some(format!("download it, for example with `curl -LO ADDRESS` ({page})"));
    }
    let name =
        ["hf://", "hf.co/", "huggingface.co/"].iter().find_map(|start| text.strip_prefix(start));
    let is_part = |part: &str| !part.is_empty() && !part.starts_with(['.', '~']);
    let mut parts = name.unwrap_or(text).split('/');
    let (Some(owner), Some(model), None) = (parts.next(), parts.next(), parts.next()) else {
        return name.map(of_hugging_face);
    };
    let is_path = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
        || !is_part(owner)
        || !is_part(model)
        || text.contains(['\\', ' '])
        || Path::new(owner).exists();
    (name.is_some() || !is_path).then(|| of_hugging_face(&format!("{owner}/{model}")))
}

fn of_hugging_face(name: &str) -> String {
    format!(
        "download a .gguf file from https://huggingface.co/{name}, for example with `hf download {name} FILE.gguf`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_no_paths() {
        for (text, said) in [
            ("https://huggingface.co/x/y.gguf", "curl"),
            ("HTTP://x/y", "curl"),
            ("TheBloke/Mixtral-8x7B-GGUF", "https://huggingface.co/TheBloke/Mixtral-8x7B-GGUF"),
            ("hf.co/a/b", "hf download a/b"),
        ] {
            let how = how_to_get(Path::new(text)).unwrap();
            assert!(how.contains(said), "{how}");
        }
        for text in
            ["model.gguf", "a/b.gguf", "./a/b", "/a/b", "../b", "src/nothing", "a/b/c", "~/b", ""]
        {
            assert_eq!(how_to_get(Path::new(text)), None, "{text}");
        }
    }
}
