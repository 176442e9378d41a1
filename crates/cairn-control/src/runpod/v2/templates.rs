//! `/v2/templates`, and everybody's under `/v2/catalog/templates`.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::Path;
use serde::Deserialize;
use serde_json::{Value, json};

use super::shapes::{self, Persistent};
use super::{Answer, Refused, unprocessable};
use crate::http::routes::Caller;
use crate::runpod::input::set;
use crate::runpod::rest::{self, Unread, created, no_content, ok};
use crate::service::records::{ContainerConfig, Template};
use crate::service::{NewTemplate, catalog};

fn as_json(template: &Template) -> Value {
    let config = &template.config;
    json!({
        "id": template.id, "name": template.name, "image": config.image, "args": config.args,
        "disk": config.disk_gb.max(1), "env": config.env, "ports": config.ports, "registry": null, "mounts": shapes::own_volume_json(config),
        "serverless": template.serverless, "public": template.public, "category": template.category,
        "startSsh": template.start_ssh, "startJupyter": template.start_jupyter,
        "allowedCudaVersions": template.allowed_cuda_versions,
    })
}

fn list_json(templates: &[Template]) -> Value {
    json!({ "templates": templates.iter().map(as_json).collect::<Vec<_>>() })
}

pub(super) async fn list(Caller { service, who }: Caller) -> Answer {
    Ok(ok(list_json(&service.templates(&who)?)))
}

pub(super) async fn list_public() -> Answer {
    Ok(ok(list_json(&catalog::public_templates())))
}

pub(super) async fn show(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    Ok(ok(as_json(&service.template(&who, &id)?)))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mounts {
    persistent: Option<Persistent>,
}

impl Mounts {
    fn read(self) -> Result<(Option<u32>, Option<String>), Refused> {
        let persistent = self.persistent.map(Persistent::check).transpose()?;
        Ok(persistent.map(|Persistent { size, path }| (size, path)).unzip())
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
    _registry: Unread,
}

pub(super) async fn create(Caller { service, who }: Caller, body: Bytes) -> Answer {
    let body: Body = rest::body(&body)?;
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
    Ok(created(as_json(&template)))
}

pub(super) async fn update(Caller { service, who }: Caller, Path(id): Path<String>, body: Bytes) -> Answer {
    let body: Body = rest::body(&body)?;
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
    Ok(ok(as_json(&service.update_template(&who, &id, Box::new(change)).await?)))
}

pub(super) async fn remove(Caller { service, who }: Caller, Path(id): Path<String>) -> Answer {
    service.delete_template(&who, &id).await?;
    Ok(no_content())
}
