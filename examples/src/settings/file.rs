//! Settings in a `config.json`, read as the options that they stand for.

use std::fmt::Display;
use std::path::Path;

use clap::Parser;
use patchmix::files::{printable, read_small};
use serde_json::{Map, Value};

use super::Settings;
use super::resume::HISTORY;
use crate::Result;
use crate::run::MAX_JSON;
use crate::terminal::shown;

/// The settings in a file.
pub(super) struct SettingsFile {
    /// Those of the file; the defaults for what it lacks.
    pub(super) settings: Settings,
    /// Only those of the file, as options.
    pub(super) options: Vec<String>,
}

#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Options {
    #[command(flatten)]
    settings: Settings,
}

impl SettingsFile {
    pub(super) fn read(path: &Path) -> Result<SettingsFile> {
        let named = |error: &dyn Display| format!("{}: {}", shown(path), printable(error));
        let bytes = read_small(path, MAX_JSON)
            .map_err(|error| format!("{error}; name the folder of a run, or a file of settings"))?;
        let mut fields: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|error| named(&error))?;
        fields.remove(HISTORY);
        let options = options_of(&fields);
        let settings = Options::try_parse_from(&options).map_err(|error| named(&first_line(&error)))?.settings;
        check_shape(&settings, &fields).map_err(|error| named(&error))?;
        Ok(SettingsFile { settings, options })
    }
}

impl Settings {
    /// The settings in a `config.json`. What it lacks has its default: runs of earlier versions have fewer settings.
    pub(crate) fn read(path: &Path) -> Result<Settings> {
        Ok(SettingsFile::read(path)?.settings)
    }

    /// The settings as the options that one would type.
    pub(super) fn options(&self) -> Result<Vec<String>> {
        Ok(options_of(&self.fields()?))
    }

    /// # Errors
    ///
    /// If a path is not UTF-8, which a `config.json` could not hold.
    pub(super) fn fields(&self) -> Result<Map<String, Value>> {
        let paths = [("data", Some(&self.data)), ("val", self.val.as_ref()), ("init", self.init.as_ref())];
        for (name, path) in paths {
            if let Some(path) = path.filter(|path| path.to_str().is_none()) {
                let path = shown(path);
                return Err(format!("--{name} {path}: must be UTF-8; rename it, or make a link to it").into());
            }
        }
        match serde_json::to_value(self)? {
            Value::Object(fields) => Ok(fields),
            other => Err(format!("settings must be an object, got {other}").into()),
        }
    }
}

/// An error unless the file's width, depth and heads are those of its architecture.
fn check_shape(settings: &Settings, fields: &Map<String, Value>) -> Result<()> {
    let named = ["width", "depth", "heads"].map(|name| fields.contains_key(name));
    let fits = match settings.arch.shape() {
        Some(shape) => !named.contains(&true) || shape == (settings.width, settings.depth, settings.heads),
        None => !named.contains(&false),
    };
    if fits { Ok(()) } else { Err("width, depth and heads go with the arch custom, which needs all three".into()) }
}

/// A usage error of clap in one line.
pub(crate) fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// `--name=value` for every field that has a value.
fn options_of(fields: &Map<String, Value>) -> Vec<String> {
    let with_value = fields.iter().filter(|(_, value)| !value.is_null());
    with_value.map(|(name, value)| format!("--{}={}", name.replace('_', "-"), show(name, value))).collect()
}

/// A setting's value as one would type it; `none` if it has none.
pub(super) fn show(name: &str, value: &Value) -> String {
    match value {
        Value::Number(number) if name == "momentum_encoder" && number.as_f64() == Some(0.0) => "off".to_owned(),
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(Value::to_string).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_path_that_a_config_cannot_hold_is_named() {
        let path = || PathBuf::from(OsString::from_vec(b"im\xffges".to_vec()));
        for (settings, option) in [
            (Settings { data: path(), ..Settings::quick() }, "--data im"),
            (Settings { val: Some(path()), ..Settings::quick() }, "--val im"),
            (Settings { init: Some(path()), ..Settings::quick() }, "--init im"),
        ] {
            let error = settings.fields().unwrap_err().to_string();
            assert!(error.contains(option) && error.contains("must be UTF-8; rename it"), "{error}");
        }
    }
}
