//! Runpod's three APIs, as thin faces of one service: GraphQL, REST v1 and REST v2.
//!
//! Each has shapes, statuses and error forms of its own; what all share is in [`input`], and what
//! the two REST faces share in [`rest`]. None of them decides anything that
//! [`crate::service`] could.

mod graphql;
mod input;
mod rest;
mod v1;
mod v2;

use std::sync::Arc;

use crate::http::routes::Routes;
use crate::service::Service;

pub(crate) fn routes(service: &Arc<Service>) -> Routes {
    graphql::routes(service).merge(v1::routes()).merge(v2::routes())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn routes_are_listed_once_and_do_not_collide() {
        // Two handlers of one method and path would panic here.
        let (_, list) = v1::routes().merge(v2::routes()).merge(crate::admin::routes()).into_parts();
        let served = list.iter().filter(|route| route.summary.is_some()).count();
        assert_eq!((served, list.len() - served), (30 + 36 + 9, 7 + 18));
        let distinct: HashSet<_> = list.iter().map(|route| (route.method, route.path)).collect();
        assert_eq!(distinct.len(), list.len());
    }
}
