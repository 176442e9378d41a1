//! Runpod's three APIs, as thin faces of one service: GraphQL, REST v1 and REST v2.
//!
//! Each has shapes, statuses and error forms of its own; what they share is in [`input`]. None of them decides anything that
//! [`crate::service`] could.

mod graphql;
mod input;
mod v1;
mod v2;

use std::sync::Arc;

use axum::Router;

use crate::service::Service;

/// The routes that are served, for the document that lists them: method, path, a sentence.
pub(crate) fn served() -> Vec<(&'static str, &'static str, &'static str)> {
    let mut routes = vec![("post", "/graphql", "Runpod GraphQL: a query or a mutation")];
    routes.extend(v1::SERVED);
    routes.extend(v2::SERVED);
    routes
}

/// Routes that Runpod has and this server answers with 501.
pub(crate) fn not_served() -> impl Iterator<Item = (&'static str, &'static str)> {
    v1::NOT_SERVED.into_iter().chain(v2::NOT_SERVED)
}

pub(crate) fn router(service: &Arc<Service>) -> Router<Arc<Service>> {
    Router::new().merge(graphql::router(service)).merge(v1::router()).merge(v2::router())
}
