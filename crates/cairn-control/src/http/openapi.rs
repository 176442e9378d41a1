//! `GET /openapi.json`: every route of this server. Shapes of the emulated APIs are their providers' own and are not repeated
//! here; which of their routes are served, and which are answered with 501, is.

use serde_json::{Map, Value, json};

use super::routes::Route;

const OWN: [(&str, &str, &str); 3] = [
    ("get", "/health", "The process answers"),
    ("get", "/ready", "Whether the server has recovered its state after a start; 503 until then"),
    ("get", "/openapi.json", "This document"),
];

fn operation(path: &str, summary: &str, served: bool, open: bool) -> Value {
    let names = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let parameters: Vec<Value> = names
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    let mut operation = json!({
        "summary": summary,
        "parameters": parameters,
        "responses": if served {
            json!({ "default": { "description": "As the emulated API describes it, or an error in its form" } })
        } else {
            json!({ "501": { "description": "This server does not serve that part of the API" } })
        },
    });
    if open {
        operation["security"] = json!([]);
    }
    operation
}

/// The document for `routes` and those that take no key.
pub(super) fn document(routes: &[Route]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    let mut add = |method: &str, path: &str, operation: Value| {
        let entry = paths.entry(path.to_owned()).or_insert_with(|| json!({}));
        entry[method] = operation;
    };
    for (method, path, summary) in OWN {
        add(method, path, operation(path, summary, true, true));
    }
    for Route { method, path, summary } in routes {
        add(method, path, operation(path, summary.unwrap_or("Not served"), summary.is_some(), false));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Cairn control plane",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Runpod GraphQL, REST v1 and REST v2 for network volumes and what uses them, and Cairn's own routes.",
        },
        "security": [{ "bearer": [] }],
        "components": { "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } } },
        "paths": paths,
    })
}
