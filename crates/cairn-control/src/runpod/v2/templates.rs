//! `/v2/templates`, and everybody's under `/v2/catalog/templates`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Refused, unprocessable};
use crate::runpod::input::{self, set};
use crate::service::records::{ContainerConfig, Template};
use crate::service::{NewTemplate, Principal, Service, catalog};

fn as_json(template: &Template) -> Value {
    let config = &template.config;
    let mounts = if config.volume_gb >= 10 {
        json!({ "persistent": { "size": config.volume_gb, "path": config.mount_path } })
    } else {
        json!({})
    };
    json!({
        "id": template.id, "name": template.name, "image": config.image, "args": config.args,
        "disk": config.disk_gb.max(1), "env": config.env, "ports": config.ports, "registry": null, "mounts": mounts,
        "serverless": template.serverless, "public": template.public, "category": template.category,
        "startSsh": template.start_ssh, "startJupyter": template.start_jupyter,
        "allowedCudaVersions": template.allowed_cuda_versions,
    })
}

fn list_json(templates: &[Template]) -> Value {
    json!({ "templates": templates.iter().map(as_json).collect::<Vec<_>>() })
}

pub(super) async fn list(State(service): State<Arc<Service>>, Extension(who): Extension<Principal>) -> Answer {
    Ok(Json(list_json(&service.templates(&who)?)).into_response())
}

pub(super) async fn list_public() -> Answer {
    Ok(Json(list_json(&catalog::public_templates())).into_response())
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
) -> Answer {
    Ok(Json(as_json(&service.template(&who, &id)?)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Persistent {
    size: u32,
    path: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mounts {
    persistent: Option<Persistent>,
}

impl Mounts {
    fn read(self) -> Result<(Option<u32>, Option<String>), Refused> {
        match self.persistent {
            Some(persistent) if persistent.size < 10 => {
                Err(unprocessable("mounts.persistent.size must be at least 10"))
            }
            Some(persistent) => Ok((Some(persistent.size), Some(persistent.path))),
            None => Ok((None, None)),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    name: Option<String>,
    image: Option<String>,
    args: Option<String>,
    disk: Option<u32>,
    env: Option<BTreeMap<String, String>>,
    ports: Option<Vec<String>>,
    #[serde(default)]
    mounts: Mounts,
    category: Option<String>,
    public: Option<bool>,
    serverless: Option<bool>,
    start_ssh: Option<bool>,
    start_jupyter: Option<bool>,
    allowed_cuda_versions: Option<Vec<String>>,
}

const KEYS: [&str; 14] = [
    "name",
    "image",
    "args",
    "disk",
    "env",
    "ports",
    "registry",
    "mounts",
    "category",
    "public",
    "serverless",
    "startSsh",
    "startJupyter",
    "allowedCudaVersions",
];

pub(super) async fn create(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Principal>,
    body: Bytes,
) -> Answer {
    let body: Body = input::body(&body, &KEYS)?;
    let (Some(name), Some(image)) = (body.name, body.image) else {
        return Err(unprocessable("name and image are needed"));
    };
    let (volume_gb, mount_path) = body.mounts.read()?;
    let wanted = NewTemplate {
        name,
        config: ContainerConfig {
            image,
            args: body.args.unwrap_or_default(),
            entrypoint: Vec::new(),
            start_command: Vec::new(),
            env: body.env.unwrap_or_default(),
            ports: body.ports.unwrap_or_default(),
            disk_gb: body.disk.unwrap_or(50),
            volume_gb: volume_gb.unwrap_or(0),
            mount_path: mount_path.unwrap_or_default(),
        },
        readme: String::new(),
        category: body.category.unwrap_or_else(|| "NVIDIA".to_owned()),
        serverless: body.serverless.unwrap_or(false),
        public: body.public.unwrap_or(false),
        start_ssh: body.start_ssh.unwrap_or(true),
        start_jupyter: body.start_jupyter.unwrap_or(true),
        allowed_cuda_versions: body.allowed_cuda_versions.unwrap_or_default(),
    };
    let template = service.create_template(&who, wanted).await?;
    Ok((StatusCode::CREATED, Json(as_json(&template))).into_response())
}

pub(super) async fn update(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer {
    let body: Body = input::body(&body, &KEYS)?;
    let (volume_gb, mount_path) = body.mounts.read()?;
    let change = move |template: &mut Template| {
        set(&mut template.name, body.name);
        set(&mut template.config.image, body.image);
        set(&mut template.config.args, body.args);
        set(&mut template.config.disk_gb, body.disk);
        set(&mut template.config.env, body.env);
        set(&mut template.config.ports, body.ports);
        set(&mut template.config.volume_gb, volume_gb);
        set(&mut template.config.mount_path, mount_path);
        set(&mut template.category, body.category);
        set(&mut template.public, body.public);
        set(&mut template.serverless, body.serverless);
        set(&mut template.start_ssh, body.start_ssh);
        set(&mut template.start_jupyter, body.start_jupyter);
        set(&mut template.allowed_cuda_versions, body.allowed_cuda_versions);
    };
    Ok(Json(as_json(&service.update_template(&who, &id, Box::new(change)).await?)).into_response())
}

pub(super) async fn remove(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
) -> Answer {
    service.delete_template(&who, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
