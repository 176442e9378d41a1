//! Routes as a face lists them: each is written once, served from there and named in `/openapi.json` from there.

use std::sync::Arc;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::{MethodFilter, any, on};

use super::refusal::not_served;
use crate::service::{Principal, Service};

/// One route, for the document that lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// In lower case.
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// `None` for a route that the emulated API has and this server answers with 501.
    pub(crate) summary: Option<&'static str>,
}

/// A face's routes and their handlers.
#[derive(Default)]
pub(crate) struct Routes {
    router: Router<Arc<Service>>,
    list: Vec<Route>,
}

impl Routes {
    pub(crate) fn get<H: Handler<T, Arc<Service>>, T: 'static>(
        self,
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        self.serve((MethodFilter::GET, "get"), path, summary, handler)
    }

    pub(crate) fn post<H: Handler<T, Arc<Service>>, T: 'static>(
        self,
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        self.serve((MethodFilter::POST, "post"), path, summary, handler)
    }

    pub(crate) fn put<H: Handler<T, Arc<Service>>, T: 'static>(
        self,
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        self.serve((MethodFilter::PUT, "put"), path, summary, handler)
    }

    pub(crate) fn patch<H: Handler<T, Arc<Service>>, T: 'static>(
        self,
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        self.serve((MethodFilter::PATCH, "patch"), path, summary, handler)
    }

    pub(crate) fn delete<H: Handler<T, Arc<Service>>, T: 'static>(
        self,
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        self.serve((MethodFilter::DELETE, "delete"), path, summary, handler)
    }

    fn serve<H: Handler<T, Arc<Service>>, T: 'static>(
        mut self,
        (filter, method): (MethodFilter, &'static str),
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        self.list.push(Route { method, path, summary: Some(summary) });
        self.router = self.router.route(path, on(filter, handler));
        self
    }

    /// What the emulated API has under `path` and this server does not: every method is answered with 501.
    pub(crate) fn not_served(mut self, path: &'static str, methods: &[&'static str]) -> Self {
        self.list.extend(methods.iter().map(|method| Route { method, path, summary: None }));
        self.router = self.router.route(path, any(not_served));
        self
    }

    pub(crate) fn merge(mut self, other: Routes) -> Self {
        self.list.extend(other.list);
        self.router = self.router.merge(other.router);
        self
    }

    /// The router, and what it serves.
    pub(crate) fn into_parts(self) -> (Router<Arc<Service>>, Vec<Route>) {
        (self.router, self.list)
    }
}

/// Who asks, and the service that is asked: what nearly every handler begins with.
pub(crate) struct Caller {
    pub(crate) service: Arc<Service>,
    pub(crate) who: Principal,
}

impl FromRequestParts<Arc<Service>> for Caller {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Result<Self, StatusCode> {
        // The guard sets it for every path that needs a key.
        let who = parts.extensions.get::<Principal>().cloned().ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
        Ok(Caller { service: Arc::clone(service), who })
    }
}
