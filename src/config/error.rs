//! An error that says where, what was found and what would be right.

use std::fmt;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a file.
    File {
        /// Its path as given.
        path: String,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// On the command line, by this flag.
    Flag(String),
    /// In the environment, by this variable.
    Environment(String),
    /// Nowhere: the default, which this machine makes impossible.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File { path, line, column } => write!(f, "{path}:{line}:{column}"),
            Source::Flag(flag) => write!(f, "argument {flag}"),
            Source::Environment(variable) => write!(f, "environment variable {variable}"),
            Source::Default => f.write_str("default"),
        }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{source_text}: {key}: found {found}; allowed: {allowed}", source_text = .at)]
pub struct ConfigError {
    /// Where it was written.
    pub at: Source,
    /// The key by its full name, such as `cache.size`.
    pub key: String,
    /// What was found.
    pub found: String,
    /// What would be right.
    pub allowed: String,
}

/// All that is wrong with a configuration, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
