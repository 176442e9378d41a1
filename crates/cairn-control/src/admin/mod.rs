//! Cairn's own API for what no cloud's has: accounts, credit, keys, the clock. `cairn account` is its client.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, body::Bytes};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::http::refusal::Face;
use crate::http::routes::{Caller, Routes};
use crate::service::records::ApiKey;
use crate::service::{AccountView, ErrorKind, Money, NewAccount, Role, Service, ServiceError};

pub(crate) fn routes() -> Routes {
    Routes::default()
        .get("/cairn/v1/account", "The account that the key belongs to: balance, charges, warnings", own_account)
        .get("/cairn/v1/accounts", "Every account (operator)", list_accounts)
        .post("/cairn/v1/accounts", "Create an account and its owner's key (operator)", create_account)
        .post("/cairn/v1/accounts/{id}/credit", "Add credit to an account (operator)", add_credit)
        .get("/cairn/v1/keys", "Keys of the account, or of all for the operator", list_keys)
        .post("/cairn/v1/keys", "Create a key; it cannot be shown again", create_key)
        .delete("/cairn/v1/keys/{id}", "Revoke a key", revoke_key)
        .get("/cairn/v1/clock", "The time that charges follow", show_clock)
        .post("/cairn/v1/clock", "Advance that time (operator)", advance_clock)
}

type Answer = Result<Response, Refused>;

/// A service error in this face's form.
struct Refused(ServiceError);

impl From<ServiceError> for Refused {
    fn from(error: ServiceError) -> Self {
        Refused(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match self.0.kind() {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::NoBalance => StatusCode::PAYMENT_REQUIRED,
            ErrorKind::TooMany => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Face::Admin.refuse_error(status, &self.0)
    }
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, ServiceError> {
    let read = serde_json::from_slice::<Value>(body).and_then(|body| match body {
        Value::Object(_) => serde_json::from_value(body),
        _ => Err(serde::de::Error::custom("not an object")),
    });
    read.map_err(|error| ServiceError::Invalid(format!("the request's body is not valid: {error}")))
}

fn account_json(view: &AccountView) -> Value {
    json!({
        "id": view.account.id, "name": view.account.name, "email": view.account.email,
        "created": view.account.created.to_string(), "prepaid": view.account.prepaid,
        "credit": view.account.credit.dollars(), "balance": view.balance.dollars(),
        "spend_per_hour": view.spend_per_hour,
        "exhausted": view.account.exhausted.map(|moment| moment.to_string()),
        "balance_ends": view.ends.map(|moment| moment.to_string()),
        "volumes_terminated": view.termination.map(|moment| moment.to_string()),
        "warnings": view.warnings,
    })
}

fn key_json(key: &ApiKey) -> Value {
    json!({
        "id": key.id, "account": key.account, "label": key.label, "role": key.role, "pod": key.pod,
        "created": key.created.to_string(),
    })
}

async fn own_account(Caller { service, who }: Caller) -> Answer {
    Ok(Json(account_json(&service.me(&who)?)).into_response())
}

async fn list_accounts(Caller { service, who }: Caller) -> Answer {
    let accounts: Vec<Value> = service.list_accounts(&who)?.iter().map(account_json).collect();
    Ok(Json(json!({ "accounts": accounts })).into_response())
}

fn money(dollars: f64) -> Result<Money, ServiceError> {
    Money::from_dollars(dollars)
        .ok_or_else(|| ServiceError::Invalid("that is not a valid amount of dollars".to_owned()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateAccount {
    name: String,
    #[serde(default)]
    email: String,
    /// In dollars. With it the account is prepaid.
    #[serde(default)]
    prepaid: Option<f64>,
}

async fn create_account(Caller { service, who }: Caller, body: Bytes) -> Answer {
    let wanted: CreateAccount = read(&body)?;
    let credit = wanted.prepaid.map_or(Ok(Money::ZERO), money)?;
    let wanted = NewAccount { name: wanted.name, email: wanted.email, credit, prepaid: wanted.prepaid.is_some() };
    let (view, key) = service.create_account(&who, wanted).await?;
    let mut body = account_json(&view);
    body["key"] = Value::String(key);
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddCredit {
    dollars: f64,
}

async fn add_credit(Caller { service, who }: Caller, Path(account): Path<String>, body: Bytes) -> Answer {
    let amount = money(read::<AddCredit>(&body)?.dollars)?;
    Ok(Json(account_json(&service.add_credit(&who, account, amount).await?)).into_response())
}

async fn list_keys(Caller { service, who }: Caller) -> Answer {
    let keys: Vec<Value> = service.list_keys(&who)?.iter().map(key_json).collect();
    Ok(Json(json!({ "keys": keys })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateKey {
    #[serde(default)]
    account: Option<String>,
    #[serde(default)]
    label: String,
    role: Role,
}

async fn create_key(Caller { service, who }: Caller, body: Bytes) -> Answer {
    let wanted: CreateKey = read(&body)?;
    let (text, key) = service.create_key(&who, wanted.account, wanted.label, wanted.role).await?;
    let mut body = key_json(&key);
    body["key"] = Value::String(text);
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

async fn revoke_key(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    service.revoke_key(&who, id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn show_clock(State(service): State<Arc<Service>>) -> Response {
    Json(json!({ "now": service.now().to_string() })).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdvanceClock {
    seconds: i64,
}

async fn advance_clock(Caller { service, who }: Caller, body: Bytes) -> Answer {
    let seconds = read::<AdvanceClock>(&body)?.seconds;
    let now = service.advance_clock(&who, seconds.saturating_mul(1000)).await?;
    Ok(Json(json!({ "now": now.to_string() })).into_response())
}
