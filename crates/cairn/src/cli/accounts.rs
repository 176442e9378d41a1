//! The control plane's accounts: `account`, `api-key`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::parse_duration;

/// How to reach the control plane and how to answer.
#[derive(Args, Clone, Debug)]
pub(crate) struct ControlClient {
    /// Where it is: the address of `cairn serve --http`.
    #[arg(long, env = "CAIRN_API", default_value = "http://127.0.0.1:7430", value_name = "URL")]
    pub(crate) api: String,
    /// API key. Prefer the variable or --api-key-file: arguments are visible to others.
    #[arg(long, env = "CAIRN_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// File that holds the key. Default: control-key in the default data directory.
    #[arg(long, env = "CAIRN_API_KEY_FILE", value_name = "FILE", conflicts_with = "api_key")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, env = "CAIRN_JSON")]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Account {
    /// Make an account and print its owner's key, this once.
    #[command(after_help = "\
Examples:
  cairn account create team                  charges are counted, and nothing follows from them
  cairn account create student --prepaid 25  at a balance of 0 pods stop, and later volumes are deleted for good")]
    Create {
        name: String,
        #[arg(long, env = "CAIRN_ACCOUNT_EMAIL", default_value = "")]
        email: String,
        /// Credit in dollars that it begins with, and that it must not use up.
        #[arg(long, env = "CAIRN_ACCOUNT_PREPAID", value_name = "DOLLARS")]
        prepaid: Option<f64>,
        #[command(flatten)]
        api: ControlClient,
    },
    /// List the accounts with their balances.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        api: ControlClient,
    },
    /// Show the account of the key that is used.
    Show {
        #[command(flatten)]
        api: ControlClient,
    },
    /// Give an account credit.
    Credit {
        /// Id of the account.
        account: String,
        dollars: f64,
        #[command(flatten)]
        api: ControlClient,
    },
    /// Make, list and revoke API keys.
    #[command(subcommand)]
    Key(ApiKey),
    /// Show the time that charges follow, or advance it.
    Clock {
        /// Let so much time pass at once, such as 30d.
        #[arg(long, env = "CAIRN_CLOCK_ADVANCE", value_parser = parse_duration, value_name = "TIME")]
        advance: Option<Duration>,
        #[command(flatten)]
        api: ControlClient,
    },
}

/// What an API key may do.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ApiRole {
    /// Look at everything of the account.
    Reader,
    /// And make, change and delete volumes, pods, endpoints and templates.
    Editor,
    /// And the account's settings and keys.
    Owner,
    /// And everything of the server.
    Operator,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApiKey {
    /// Make a key and print it, this once.
    Create {
        /// What it may do.
        #[arg(long, env = "CAIRN_API_KEY_ROLE", value_enum, value_name = "ROLE")]
        role: ApiRole,
        /// What it is for.
        #[arg(long, env = "CAIRN_API_KEY_LABEL", default_value = "")]
        label: String,
        /// Id of the account that it opens. Default: that of the key that is used.
        #[arg(long, env = "CAIRN_ACCOUNT", value_name = "ID")]
        account: Option<String>,
        #[command(flatten)]
        api: ControlClient,
    },
    /// List the keys (never their text).
    List {
        #[command(flatten)]
        api: ControlClient,
    },
    /// Revoke a key.
    Revoke {
        /// Id, as `cairn account key list` shows it.
        id: String,
        #[command(flatten)]
        api: ControlClient,
    },
}
