//! `/v2/account/ssh-keys`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, unprocessable};
use crate::runpod::input;
use crate::service::{AccountView, Principal, Service};

fn as_json(view: &AccountView) -> Value {
    let keys = view.account.public_keys.lines().map(str::trim).filter(|line| !line.is_empty());
    json!({ "keys": keys.collect::<Vec<_>>() })
}

pub(super) async fn ssh_keys(State(service): State<Arc<Service>>, Extension(who): Extension<Principal>) -> Answer {
    Ok(Json(as_json(&service.me(&who)?)).into_response())
}

#[derive(Deserialize)]
struct Update {
    keys: Vec<String>,
}

pub(super) async fn set_ssh_keys(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Principal>,
    body: Bytes,
) -> Answer {
    let keys = input::body::<Update>(&body, &["keys"])?.keys;
    let fits = |key: &String| {
        let kind = key.split(' ').next().unwrap_or_default();
        let known = ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| kind.starts_with(prefix));
        known && key.split_whitespace().count() >= 2 && !key.contains(['\n', '\r'])
    };
    if !keys.iter().all(fits) {
        return Err(unprocessable("keys must be SSH public keys, one in each text"));
    }
    Ok(Json(as_json(&service.set_public_keys(&who, keys.join("\n")).await?)).into_response())
}
