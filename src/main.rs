//! The program: arguments become a configuration, the configuration runs.

mod cli;
mod playground;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::ArgMatches;
use tokio::task::LocalSet;

use cli::{Cli, Command, Settings};
use nodens::config::check::check;
use nodens::config::error::{ConfigError, ConfigErrors, Source};
use nodens::config::raw::Raw;
use nodens::config::{Config, show};

/// Answers live for as long as their TTLs say, and what is allocated between them for a moment: glibc's allocator keeps the
/// gaps, three times the memory of the answers, this one does not.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Something did not work.
const FAILURE: u8 = 1;
/// The arguments or the configuration are wrong.
const WRONG: u8 = 2;

fn main() -> ExitCode {
    let (cli, matches) = match Cli::read() {
        Ok(read) => read,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(WRONG));
        }
    };
    nodens::observe::log::say_panics();
    let result = match &cli.command {
        Command::Serve(wanted) if wanted.lab => playground::serve(&wanted.settings, &matches),
        Command::Serve(wanted) => {
            written(&wanted.settings, &matches).and_then(checked).and_then(|config| serve(&config))
        }
        Command::Check(wanted) => {
            written(&wanted.settings, &matches).and_then(checked).and_then(|config| match wanted.json {
                true => print(&format!("{:#}\n", show::json(&config))),
                false => print(&show::toml(&config)),
            })
        }
        Command::Lab(wanted) => playground::run(wanted),
    };
    nodens::observe::log::flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            let _ = writeln!(std::io::stderr(), "error: {}", failed.text.replace('\n', "\nerror: "));
            ExitCode::from(failed.code)
        }
    }
}

/// Why the program ends, and with which code.
struct Failed {
    text: String,
    code: u8,
}

impl Failed {
    fn because(error: impl std::fmt::Display) -> Failed {
        Failed { text: error.to_string(), code: FAILURE }
    }
}

impl From<ConfigErrors> for Failed {
    fn from(errors: ConfigErrors) -> Failed {
        Failed { text: errors.to_string(), code: WRONG }
    }
}

impl From<ConfigError> for Failed {
    fn from(error: ConfigError) -> Failed {
        ConfigErrors(vec![error]).into()
    }
}

/// The file, arguments and environment over it.
fn written(settings: &Settings, matches: &ArgMatches) -> Result<Raw, Failed> {
    let file = match &settings.config {
        Some(path) => Raw::from_toml(&path.display().to_string(), &read(path)?)?,
        None => Raw::default(),
    };
    Ok(settings.layer(matches)?.over(file))
}

fn checked(raw: Raw) -> Result<Config, Failed> {
    Ok(check(raw, Path::new("/etc/resolv.conf"))?)
}

fn read(path: &Path) -> Result<String, Failed> {
    std::fs::read_to_string(path).map_err(|error| {
        Failed::from(ConfigError {
            at: Source::Flag("--config".into()),
            key: path.display().to_string(),
            found: error.to_string(),
            allowed: "a file of TOML that can be read".into(),
        })
    })
}

/// The runtime of the main thread: signals, admin pages, and nothing that a query waits for.
fn runtime() -> Result<tokio::runtime::Runtime, Failed> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failed::because)
}

fn serve(config: &Config) -> Result<(), Failed> {
    LocalSet::new().block_on(&runtime()?, nodens::run::serve(config)).map_err(Failed::because)
}

fn print(text: &str) -> Result<(), Failed> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Failed::because)
}
