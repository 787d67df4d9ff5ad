//! The options in the folder of a fine-tuning: what it saves of its command line, and with what it resumes.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use patchmix::files::{printable, read_small};
use serde_json::{Value, json};

use super::super::subject::Subject;
use super::FinetuneArguments;
use crate::Result;
use crate::images::Choice;
use crate::run::{MAX_JSON, write_json};
use crate::settings::first_line;
use crate::terminal::shown;

pub(super) const OPTIONS: &str = "finetune.json";

/// Options that name an encoder. A fine-tuning that resumes has its own.
const OF_THE_ENCODER: [&str; 3] = ["checkpoint", "encoder", "best"];

/// Options that are neither saved nor taken from a folder. Whoever made the folder is not to choose which files are
/// written and what is fetched; an address may hold a password.
const NEVER_SAVED: [&str; 8] = ["encoder", "best", "json", "mirror", "download", "out", "resume", "stop-after"];

/// Saves the words of a command line and what they leave open, for an encoder in the file `start`.
pub(super) fn save(folder: &Path, words: &[OsString], start: &Path, subject: &Subject) -> Result<()> {
    let words = words.iter().map(|word| utf8(word)).collect::<Result<Vec<_>>>()?;
    let Choice { dataset, data, val, limit } = &subject.choice;
    // Absolute, so that any working directory will do; a folder that is not needed need not exist.
    let absolute = |folder: &Path| utf8(folder.canonicalize().unwrap_or_else(|_| folder.to_owned()).as_os_str());
    let mut settled = vec![
        ("checkpoint", utf8(start.canonicalize()?.as_os_str())?),
        ("dataset", dataset.name()),
        ("data", absolute(data)?),
        ("limit", limit.to_string()),
    ];
    if let Some(val) = val {
        settled.push(("val", absolute(val)?));
    }
    let mut options = saved_options(words);
    options.retain(|option| !settled.iter().any(|(name, _)| is_option(option, name)));
    options.extend(settled.into_iter().map(|(name, value)| format!("--{name}={value}")));
    write_json(&folder.join(OPTIONS), &json!({ "options": options }))
}

fn utf8(word: &OsStr) -> Result<String> {
    Ok(word.to_str().ok_or_else(|| format!("{}: must be UTF-8", printable(word.display())))?.to_owned())
}

/// The options among the words of a command line that may be saved, each with its value in one word. Words that are
/// none are left for the parser to refuse.
fn saved_options(words: Vec<String>) -> Vec<String> {
    let command = command();
    let mut options = Vec::new();
    let mut words = words.into_iter().filter(|word| word != "--");
    while let Some(mut word) = words.next() {
        let name = word.strip_prefix("--").and_then(|rest| rest.split('=').next()).unwrap_or_default().to_owned();
        let option = command.get_arguments().find(|option| option.get_long() == Some(&name));
        if option.is_some_and(|option| option.get_action().takes_values()) && !word.contains('=') {
            word.extend(words.next().map(|value| format!("={value}")));
        }
        if !NEVER_SAVED.contains(&name.as_str()) {
            options.push(word);
        }
    }
    options
}

/// A parser of options alone.
fn command() -> Command {
    let command = Command::new("finetune").no_binary_name(true).disable_help_flag(true).args_override_self(true);
    FinetuneArguments::augment_args(command)
}

/// Whether a word is `--NAME` or `--NAME=VALUE`.
fn is_option(word: &str, name: &str) -> bool {
    let rest = word.strip_prefix("--").and_then(|word| word.strip_prefix(name));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

/// The words of a command line of `command`; those of `finetune --resume` begin with the options that were saved in the
/// folder of `--out`, so that what is given now wins.
pub(in super::super) fn with_saved_options(words: Vec<OsString>, command: Command) -> Result<Vec<OsString>> {
    let said = command.ignore_errors(true).try_get_matches_from(&words);
    let said = said.ok().and_then(|said| said.subcommand_matches("finetune").cloned());
    // Words that do not parse may leave the flag without its default.
    let resumed = said.filter(|said| said.try_get_one("resume").ok().flatten() == Some(&true));
    let Some(folder) = resumed.and_then(|said| said.get_one::<PathBuf>("out").cloned()) else { return Ok(words) };
    for word in words.iter().filter_map(|word| word.to_str()) {
        if OF_THE_ENCODER.iter().any(|name| is_option(word, name)) {
            let (word, folder) = (printable(word), shown(&folder));
            return Err(format!("{word}: {folder} has the encoder that it began with; leave it out to resume").into());
        }
    }
    let place = words.iter().position(|word| word == "finetune").map_or(words.len(), |place| place + 1);
    let mut words = words;
    words.splice(place..place, read(&folder)?.into_iter().map(OsString::from));
    Ok(words)
}

/// The saved options; an error unless they are such and parse.
fn read(folder: &Path) -> Result<Vec<String>> {
    let path = folder.join(OPTIONS);
    let text = read_small(&path, MAX_JSON).map_err(|error| format!("{error}; --out names a fine-tuning"))?;
    let named = |problem: String| format!("{}: {}", shown(&path), printable(problem));
    let saved: Value = serde_json::from_slice(&text).map_err(|error| named(error.to_string()))?;
    let words = saved["options"].as_array().ok_or_else(|| named("has no options".to_owned()))?;
    let words = words.iter().map(|word| word.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
    let options = saved_options(words.ok_or_else(|| named("has an option that is no text".to_owned()))?);
    command().try_get_matches_from(&options).map_err(|error| named(first_line(&error)))?;
    Ok(options)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::CommandFactory;

    use super::super::super::Arguments;
    use super::*;

    #[test]
    fn what_belongs_to_one_call_is_not_saved() {
        let saved = |text: &str| saved_options(text.split_whitespace().map(str::to_owned).collect());
        let kept = ["--batch-size=16", "--from-scratch", "--data=a=b"];
        assert_eq!(saved("--batch-size 16 --from-scratch --data=a=b"), kept);
        for given in ["--stop-after 3", "--stop-after=3", "--best", "--json x", "--download --mirror=u:p@x", "--"] {
            assert_eq!(saved(&format!("--batch-size 16 {given} --from-scratch --data=a=b --out o")), kept, "{given}");
        }
        let names: Vec<String> =
            command().get_arguments().filter_map(|option| Some(option.get_long()?.into())).collect();
        assert!(NEVER_SAVED.iter().chain(&OF_THE_ENCODER).all(|name| names.contains(&(*name).to_owned())), "{names:?}");
    }

    /// The words of a fine-tuning that resumes in a folder with these options.
    fn resumed(options: &Value) -> std::result::Result<Vec<OsString>, String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(OPTIONS), json!({ "options": options }).to_string()).unwrap();
        let words = ["evaluate", "finetune", "--resume", "--out"].map(OsString::from).into_iter();
        let words = words.chain([folder.path().as_os_str().to_owned()]).collect();
        with_saved_options(words, Arguments::command()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_folder_cannot_choose_what_is_written_or_fetched() {
        let options = json!(["--checkpoint", "c", "--json", "/etc/x", "--mirror=y", "--download", "--data", "--out"]);
        let words = resumed(&options).unwrap();
        assert_eq!(words[..5], ["evaluate", "finetune", "--checkpoint=c", "--data=--out", "--resume"]);
    }

    #[test]
    fn a_bad_saved_option_is_one_line_that_names_the_file() {
        for (options, named) in [
            (json!(["--checkpoint=c", "--epochs", "a\u{1b}b"]), "--epochs"),
            (json!(["--checkpoint=c", "--nonsense\u{1b}"]), "--nonsense"),
            (json!(["--checkpoint=c", "--help"]), "--help"),
            (json!(["--checkpoint=c", "word"]), "word"),
            (json!(["--checkpoint=c", "--epochs"]), "--epochs"),
            (json!(["--checkpoint=c", 3]), "no text"),
            (json!("--checkpoint=c"), "has no options"),
        ] {
            let error = resumed(&options).unwrap_err();
            assert!(error.contains("finetune.json: ") && error.contains(named), "{error}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }
}
