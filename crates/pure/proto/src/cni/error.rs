//! What a plugin answers when it could not do what it was asked for.

use std::fmt;

use serde_json::json;

use super::Version;

/// Why, as a number (specification, section 5; 100 and above are the plugin's own).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// 1: `cniVersion` is not spoken here, or has no such command.
    IncompatibleVersion,
    /// 2: the configuration asks for something that is not there.
    UnsupportedField,
    /// 3: the container is unknown or gone; the runtime need not clean up.
    UnknownContainer,
    /// 4: a `CNI_` variable is missing or wrong.
    InvalidEnvironment,
    /// 5: a file could not be read or written.
    Io,
    /// 6: the configuration is not JSON, or a field is not of its type.
    Decode,
    /// 7: a value in the configuration is wrong.
    InvalidConfig,
    /// 11: a passing condition; the runtime should try again later.
    TryAgain,
    /// 50: STATUS: no pod can start now.
    NotAvailable,
    /// 51: STATUS: no pod can start now, and those that run may lack connections.
    LimitedConnectivity,
    /// 100: the kernel refused.
    Kernel,
    /// 101: CHECK found something missing or different.
    CheckFailed,
    /// 102: a fault of the plugin itself.
    Internal,
}

impl Code {
    /// The number in the answer.
    pub fn number(self) -> u32 {
        match self {
            Code::IncompatibleVersion => 1,
            Code::UnsupportedField => 2,
            Code::UnknownContainer => 3,
            Code::InvalidEnvironment => 4,
            Code::Io => 5,
            Code::Decode => 6,
            Code::InvalidConfig => 7,
            Code::TryAgain => 11,
            Code::NotAvailable => 50,
            Code::LimitedConnectivity => 51,
            Code::Kernel => 100,
            Code::CheckFailed => 101,
            Code::Internal => 102,
        }
    }
}

/// An error as the specification shapes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Why.
    pub code: Code,
    /// One line: what was tried, on which object.
    pub message: String,
    /// More for a person, such as what to do next; may be empty.
    pub details: String,
}

impl Error {
    /// An error without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: String::new(),
        }
    }

    /// The same error with details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The answer on standard output.
    pub fn to_json(&self, version: Version) -> String {
        json!({
            "cniVersion": version.as_str(),
            "code": self.code.number(),
            "msg": self.message,
            "details": self.details,
        })
        .to_string()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.details.is_empty() {
            Ok(())
        } else {
            write!(f, " ({})", self.details)
        }
    }
}

impl std::error::Error for Error {}
