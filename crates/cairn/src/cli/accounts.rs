//! The control plane's accounts: `account`, `api-key`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::parse_duration;

/// How to reach the control plane and how to answer.
#[derive(Args, Clone, Debug)]
pub(crate) struct ControlClient {
    /// Address of the control plane (`cairn serve --http`).
    #[arg(long, env = "CAIRN_API", default_value = "http://127.0.0.1:7430", value_name = "URL")]
    pub(crate) api: String,
    /// API key. Prefer the environment variable or --api-key-file: other users can see arguments.
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
    /// Create an account and print its owner's key; it cannot be shown again.
    #[command(after_help = "\
Examples:
  cairn account create team                  charges are counted, with no consequences
  cairn account create student --prepaid 25  when the balance reaches 0, pods stop and volumes are later deleted for good")]
    Create {
        name: String,
        #[arg(long, env = "CAIRN_ACCOUNT_EMAIL", default_value = "")]
        email: String,
        /// Make the account prepaid, with this much initial credit in dollars.
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
    /// Show the account of the current key.
    Show {
        #[command(flatten)]
        api: ControlClient,
    },
    /// Add credit to an account.
    Credit {
        /// Id of the account.
        account: String,
        dollars: f64,
        #[command(flatten)]
        api: ControlClient,
    },
    /// Create, list and revoke API keys.
    #[command(subcommand)]
    Key(ApiKey),
    /// Show the clock that charges follow, or advance it.
    Clock {
        /// Advance the clock by this much, such as 30d.
        #[arg(long, env = "CAIRN_CLOCK_ADVANCE", value_parser = parse_duration, value_name = "TIME")]
        advance: Option<Duration>,
        #[command(flatten)]
        api: ControlClient,
    },
}

/// What an API key may do.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ApiRole {
    /// Read everything in the account.
    Reader,
    /// Also create, change and delete volumes, pods, endpoints and templates.
    Editor,
    /// Also manage the account's settings and keys.
    Owner,
    /// Also administer the whole server.
    Operator,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApiKey {
    /// Create a key and print it; it cannot be shown again.
    Create {
        /// What the key may do.
        #[arg(long, env = "CAIRN_API_KEY_ROLE", value_enum, value_name = "ROLE")]
        role: ApiRole,
        /// A note on what the key is for.
        #[arg(long, env = "CAIRN_API_KEY_LABEL", default_value = "")]
        label: String,
        /// Id of the account that the key belongs to. Default: the account of the current key.
        #[arg(long, env = "CAIRN_ACCOUNT", value_name = "ID")]
        account: Option<String>,
        #[command(flatten)]
        api: ControlClient,
    },
    /// List the keys, without their secrets.
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
