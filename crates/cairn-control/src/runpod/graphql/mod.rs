//! Runpod's GraphQL: `POST /graphql {query, variables?, operationName?}`.
//!
//! Always HTTP 200 with `errors[].message` when something is wrong with what was asked (a body that is no JSON is 400), and no
//! `errors` at all on success: the Python SDK takes the presence of the key for a failure.

mod bounds;
mod inputs;
mod mutation;
mod query;
mod types;

use std::sync::Arc;

use async_graphql::{EmptySubscription, ErrorExtensions, Schema, SchemaBuilder};
use axum::Json;
use axum::body::Bytes;
use axum::extract::Extension;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use serde_json::Value;

use self::mutation::Mutation;
use self::query::Query;
use crate::http::refusal::Face;
use crate::http::routes::Routes;
use crate::service::{Principal, Service, ServiceError};

type RunpodSchema = Schema<Query, Mutation, EmptySubscription>;

fn builder() -> SchemaBuilder<Query, Mutation, EmptySubscription> {
    Schema::build(Query, Mutation, EmptySubscription)
        .limit_recursive_depth(bounds::RECURSION_MAX)
        .limit_depth(bounds::DEPTH_MAX)
        .limit_complexity(bounds::FIELDS_MAX)
        .limit_directives(bounds::DIRECTIVES_MAX)
}

pub(super) fn routes(service: &Arc<Service>) -> Routes {
    let schema: RunpodSchema = builder().data(Arc::clone(service)).finish();
    let execute = move |Extension(who): Extension<Principal>, body: Bytes| execute(schema.clone(), who, body);
    Routes::default().post("/graphql", "Runpod GraphQL: a query or a mutation", execute)
}

async fn execute(schema: RunpodSchema, who: Principal, body: Bytes) -> Response {
    let read = serde_json::from_slice::<Value>(&body).and_then(|body| match body {
        Value::Object(_) => serde_json::from_value::<async_graphql::Request>(body),
        _ => Err(serde::de::Error::custom("not an object")),
    });
    let request = match read {
        Ok(request) => request,
        Err(error) => {
            let sentence = format!("the request's body is not a JSON object with a `query`: {error}");
            return Face::GraphQl.refuse(StatusCode::BAD_REQUEST, &sentence);
        }
    };
    if let Err(sentence) = bounds::check(&request.query) {
        return Face::GraphQl.refuse(StatusCode::OK, &sentence);
    }
    Json(schema.execute(request.data(who)).await).into_response()
}

/// The form of errors that Runpod's clients know.
fn failed(error: ServiceError) -> async_graphql::Error {
    let sentence = error.public_message();
    if sentence != error.to_string() {
        tracing::error!(%error, "the control plane failed");
    }
    async_graphql::Error::new(sentence).extend_with(|_, extensions| extensions.set("code", "RUNPOD"))
}

/// Who asks, and whom.
fn parts<'a>(context: &async_graphql::Context<'a>) -> async_graphql::Result<(&'a Arc<Service>, &'a Principal)> {
    Ok((context.data::<Arc<Service>>()?, context.data::<Principal>()?))
}
