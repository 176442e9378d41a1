//! `/v1/templates`.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::Path;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use crate::http::routes::Caller;
use crate::runpod::input::{self, set};
use crate::runpod::rest::{self, Parameters, Unread, no_content, ok};
use crate::service::records::{ContainerConfig, Template};
use crate::service::{NewTemplate, catalog};

pub(super) fn as_json(template: &Template) -> Value {
    let config = &template.config;
    json!({
        "id": template.id, "name": template.name, "imageName": config.image, "category": template.category,
        "containerDiskInGb": config.disk_gb, "volumeInGb": config.volume_gb, "volumeMountPath": config.mount_path,
        "dockerEntrypoint": config.entrypoint, "dockerStartCmd": config.start_command, "env": config.env,
        "ports": config.ports, "isPublic": template.public, "isRunpod": template.account.is_empty(),
        "isServerless": template.serverless, "readme": template.readme, "earned": 0, "runtimeInMin": 0,
    })
}

pub(super) async fn list(Caller { service, who }: Caller, parameters: Parameters) -> Answer {
    let mut templates = service.templates(&who)?;
    if parameters.flag("includeRunpodTemplates") || parameters.flag("includePublicTemplates") {
        templates.extend(catalog::public_templates());
    }
    Ok(ok(templates.iter().map(as_json).collect::<Vec<_>>()))
}

pub(super) async fn show(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    Ok(ok(as_json(&service.template(&who, &id)?)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    name: Option<String>,
    image_name: Option<String>,
    category: Option<String>,
    container_disk_in_gb: Option<u32>,
    volume_in_gb: Option<u32>,
    volume_mount_path: Option<String>,
    docker_entrypoint: Option<Vec<String>>,
    docker_start_cmd: Option<Vec<String>>,
    env: Option<BTreeMap<String, String>>,
    ports: Option<Vec<String>>,
    is_public: Option<bool>,
    is_serverless: Option<bool>,
    readme: Option<String>,
    _container_registry_auth_id: Unread,
}

pub(super) async fn create(Caller { service, who }: Caller, body: Bytes) -> Answer {
    let body: Body = rest::body(&body)?;
    let wanted = NewTemplate {
        name: body.name.unwrap_or_default(),
        config: ContainerConfig {
            image: body.image_name.unwrap_or_default(),
            args: String::new(),
            entrypoint: body.docker_entrypoint.unwrap_or_default(),
            start_command: body.docker_start_cmd.unwrap_or_default(),
            env: body.env.unwrap_or_default(),
            // The published defaults.
            ports: body.ports.unwrap_or_else(|| input::split("8888/http,22/tcp")),
            disk_gb: body.container_disk_in_gb.unwrap_or(50),
            volume_gb: body.volume_in_gb.unwrap_or(20),
            mount_path: body.volume_mount_path.unwrap_or_else(|| "/workspace".to_owned()),
        },
        readme: body.readme.unwrap_or_default(),
        category: body.category.unwrap_or_else(|| "NVIDIA".to_owned()),
        serverless: body.is_serverless.unwrap_or(false),
        public: body.is_public.unwrap_or(false),
        start_ssh: true,
        start_jupyter: true,
        allowed_cuda_versions: Vec::new(),
    };
    Ok(ok(as_json(&service.create_template(&who, wanted).await?)))
}

pub(super) async fn update(Caller { service, who }: Caller, Path(id): Path<String>, body: Bytes) -> Answer {
    let body: Body = rest::body_without(&body, &["category", "isServerless"])?;
    let change = move |template: &mut Template| {
        set(&mut template.name, body.name);
        set(&mut template.config.image, body.image_name);
        set(&mut template.config.disk_gb, body.container_disk_in_gb);
        set(&mut template.config.volume_gb, body.volume_in_gb);
        set(&mut template.config.mount_path, body.volume_mount_path);
        set(&mut template.config.entrypoint, body.docker_entrypoint);
        set(&mut template.config.start_command, body.docker_start_cmd);
        set(&mut template.config.env, body.env);
        set(&mut template.config.ports, body.ports);
        set(&mut template.public, body.is_public);
        set(&mut template.readme, body.readme);
    };
    Ok(ok(as_json(&service.update_template(&who, &id, Box::new(change)).await?)))
}

pub(super) async fn remove(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    service.delete_template(&who, &id).await?;
    Ok(no_content())
}
