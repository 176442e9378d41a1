//! What can be changed.

use std::collections::BTreeMap;

use async_graphql::{Context, Object, Result};

use super::inputs::{
    CloudTypeEnum, ComputeType, CreateNetworkVolumeInput, DeleteNetworkVolumeInput, DeployCpuPodInput, EndpointInput,
    EnvironmentVariableInput, PodFindAndDeployOnDemandInput, PodResumeInput, PodStopInput, PodTerminateInput,
    SaveTemplateInput, UpdateEndpointTemplateInput, UpdateNetworkVolumeInput, UpdateUserSettingsInput,
};
use super::types::{Endpoint, NetworkVolume, Pod, PodTemplate, User, Void};
use super::{failed, parts};
use crate::runpod::input::{self, set};
use crate::service::records::{Cloud, ContainerConfig, EndpointCompute, Hardware, Scaler, VolumeTier};
use crate::service::{
    EndpointChange, NewEndpoint, NewNetworkVolume, NewPod, NewTemplate, ServiceError, Shrink, VolumeChange,
};

fn environment(env: Option<Vec<EnvironmentVariableInput>>) -> BTreeMap<String, String> {
    let variables = env.unwrap_or_default().into_iter();
    variables.map(|variable| (variable.key, variable.value.unwrap_or_default())).collect()
}

fn needed<T>(input: Option<T>) -> Result<T> {
    input.ok_or_else(|| failed(ServiceError::Invalid("the argument `input` is missing".to_owned())))
}

fn cloud(cloud: Option<CloudTypeEnum>) -> Cloud {
    if cloud == Some(CloudTypeEnum::Community) { Cloud::Community } else { Cloud::Secure }
}

pub(super) struct Mutation;

#[Object]
impl Mutation {
    async fn create_network_volume(
        &self,
        context: &Context<'_>,
        input: Option<CreateNetworkVolumeInput>,
    ) -> Result<NetworkVolume> {
        let (service, who) = parts(context)?;
        let input = needed(input)?;
        let wanted = NewNetworkVolume {
            name: input.name,
            size_gb: input.size,
            data_center: input.data_center_id,
            tier: VolumeTier::Standard,
        };
        Ok(service.create_volume(who, wanted).await.map_err(failed)?.into())
    }

    async fn update_network_volume(
        &self,
        context: &Context<'_>,
        input: Option<UpdateNetworkVolumeInput>,
    ) -> Result<NetworkVolume> {
        let (service, who) = parts(context)?;
        let input = needed(input)?;
        let wanted = VolumeChange { name: input.name, size_gb: input.size, shrink: Shrink::Refused };
        Ok(service.update_volume(who, &input.id, wanted).await.map_err(failed)?.into())
    }

    async fn delete_network_volume(
        &self,
        context: &Context<'_>,
        input: Option<DeleteNetworkVolumeInput>,
    ) -> Result<bool> {
        let (service, who) = parts(context)?;
        service.delete_volume(who, &needed(input)?.id).await.map_err(failed)?;
        Ok(true)
    }

    async fn update_user_settings(
        &self,
        context: &Context<'_>,
        input: Option<UpdateUserSettingsInput>,
    ) -> Result<User> {
        let (service, who) = parts(context)?;
        let view = match input.and_then(|input| input.pub_key) {
            Some(keys) => service.set_public_keys(who, keys).await,
            None => service.me(who),
        };
        Ok(view.map_err(failed)?.into())
    }

    /// Makes a pod, and starts its container if the server has an engine for that.
    async fn pod_find_and_deploy_on_demand(
        &self,
        context: &Context<'_>,
        input: Option<PodFindAndDeployOnDemandInput>,
    ) -> Result<Pod> {
        let (service, who) = parts(context)?;
        let input = needed(input)?;
        let gpu = input.gpu_type_id.or_else(|| input.gpu_type_id_list.and_then(|ids| ids.into_iter().next()));
        let hardware = match (input.compute_type, gpu) {
            (Some(ComputeType::Cpu), _) => {
                input::cpu_instance(input.instance_id.as_deref(), input.min_vcpu_count).map_err(failed)?
            }
            (_, Some(id)) => Hardware::Gpu { id, count: input.gpu_count.unwrap_or(1) },
            (_, None) => Hardware::Gpu { id: input::ANY_GPU.to_owned(), count: input.gpu_count.unwrap_or(1) },
        };
        let wanted = NewPod {
            name: input.name.unwrap_or_else(|| input::POD_NAME.to_owned()),
            template: input.template_id,
            image: input.image_name,
            args: input.docker_args,
            entrypoint: None,
            start_command: None,
            env: environment(input.env),
            ports: input.ports.map(|ports| input::split(&ports)),
            disk_gb: input.container_disk_in_gb,
            volume_gb: input.volume_in_gb,
            volume: input.network_volume_id,
            mount_path: input.volume_mount_path,
            data_centers: input.data_center_id.into_iter().filter(|id| !id.is_empty()).collect(),
            hardware,
            cloud: cloud(input.cloud_type),
            interruptible: false,
            locked: false,
        };
        Ok(service.create_pod(who, wanted).await.map_err(failed)?.into())
    }

    /// The same without a GPU.
    async fn deploy_cpu_pod(&self, context: &Context<'_>, input: Option<DeployCpuPodInput>) -> Result<Pod> {
        let (service, who) = parts(context)?;
        let input = needed(input)?;
        let wanted = NewPod {
            name: input.name.unwrap_or_else(|| input::POD_NAME.to_owned()),
            template: input.template_id,
            image: input.image_name,
            args: input.docker_args,
            entrypoint: None,
            start_command: None,
            env: environment(input.env),
            ports: input.ports.map(|ports| input::split(&ports)),
            disk_gb: input.container_disk_in_gb,
            volume_gb: input.volume_in_gb,
            volume: input.network_volume_id,
            mount_path: input.volume_mount_path,
            data_centers: input.data_center_id.into_iter().filter(|id| !id.is_empty()).collect(),
            hardware: input::cpu_instance(input.instance_id.as_deref(), None).map_err(failed)?,
            cloud: cloud(input.cloud_type),
            interruptible: false,
            locked: false,
        };
        Ok(service.create_pod(who, wanted).await.map_err(failed)?.into())
    }

    async fn pod_stop(&self, context: &Context<'_>, input: Option<PodStopInput>) -> Result<Pod> {
        let (service, who) = parts(context)?;
        Ok(service.stop_pod(who, &needed(input)?.pod_id).await.map_err(failed)?.into())
    }

    async fn pod_resume(&self, context: &Context<'_>, input: Option<PodResumeInput>) -> Result<Pod> {
        let (service, who) = parts(context)?;
        Ok(service.start_pod(who, &needed(input)?.pod_id).await.map_err(failed)?.into())
    }

    async fn pod_terminate(&self, context: &Context<'_>, input: Option<PodTerminateInput>) -> Result<Option<Void>> {
        let (service, who) = parts(context)?;
        service.terminate_pod(who, &needed(input)?.pod_id).await.map_err(failed)?;
        Ok(None)
    }

    /// Makes an endpoint, or changes the one whose id is given.
    async fn save_endpoint(&self, context: &Context<'_>, input: Option<EndpointInput>) -> Result<Endpoint> {
        let (service, who) = parts(context)?;
        let input = needed(input)?;
        let scaler = match input.scaler_type.as_deref() {
            None => None,
            Some(name) => Some(input::scaler(name).map_err(failed)?),
        };
        let volumes = match (input.network_volume_ids, input.network_volume_id) {
            (Some(ids), _) => Some(ids.into_iter().map(|id| id.network_volume_id).collect()),
            (None, Some(id)) => Some(vec![id]),
            (None, None) => None,
        };
        let compute = match (input.instance_ids, &input.gpu_ids) {
            (Some(flavors), _) if !flavors.is_empty() => Some(EndpointCompute::Cpu { flavors, vcpu: 2 }),
            (_, Some(ids)) => {
                Some(EndpointCompute::Gpu { ids: input::split(ids), count: input.gpu_count.unwrap_or(1) })
            }
            _ => None,
        };
        let endpoint = if let Some(id) = input.id.filter(|id| !id.is_empty()) {
            let settings = move |endpoint: &mut crate::service::records::Endpoint| {
                set(&mut endpoint.name, input.name);
                if let Some(template) = input.template_id {
                    endpoint.template = Some(template);
                }
                set(&mut endpoint.compute, compute);
                set(&mut endpoint.data_centers, input.locations.map(|ids| input::split(&ids)));
                set(&mut endpoint.idle_timeout_s, input.idle_timeout);
                set(&mut endpoint.scaler, scaler);
                set(&mut endpoint.scaler_value_milli, input.scaler_value.map(|value| value.saturating_mul(1000)));
                set(&mut endpoint.workers_min, input.workers_min);
                set(&mut endpoint.workers_max, input.workers_max);
                set(&mut endpoint.timeout_ms, input.execution_timeout_ms);
                set(&mut endpoint.flashboot, input.flash_boot_type.map(|kind| kind.name().to_owned()));
            };
            let change = EndpointChange { settings: Box::new(settings), volumes };
            service.update_endpoint(who, &id, change).await
        } else {
            let wanted = NewEndpoint {
                name: input.name.unwrap_or_default(),
                template: input.template_id,
                resolve_template: false,
                config: ContainerConfig { env: environment(input.env), ..ContainerConfig::default() },
                volumes: volumes.unwrap_or_default(),
                data_centers: input.locations.map(|ids| input::split(&ids)).unwrap_or_default(),
                compute: compute.unwrap_or(EndpointCompute::Gpu { ids: Vec::new(), count: 1 }),
                load_balancer: input.r#type.as_deref() == Some("LB"),
                workers_min: input.workers_min.unwrap_or(0),
                workers_max: input.workers_max.unwrap_or(3),
                idle_timeout_s: input.idle_timeout.unwrap_or(5),
                scaler: scaler.unwrap_or(Scaler::QueueDelay),
                scaler_value_milli: input.scaler_value.unwrap_or(4).saturating_mul(1000),
                timeout_ms: input.execution_timeout_ms.unwrap_or(600_000),
                flashboot: input.flash_boot_type.map_or("OFF", |kind| kind.name()).to_owned(),
                allowed_cuda_versions: input.allowed_cuda_versions.map(|list| input::split(&list)).unwrap_or_default(),
                min_cuda_version: input.min_cuda_version,
            };
            service.create_endpoint(who, wanted).await
        };
        Ok(endpoint.map_err(failed)?.into())
    }

    async fn update_endpoint_template(
        &self,
        context: &Context<'_>,
        input: Option<UpdateEndpointTemplateInput>,
    ) -> Result<Endpoint> {
        let (service, who) = parts(context)?;
        let input = needed(input)?;
        let template = input.template_id;
        let settings = Box::new(move |endpoint: &mut crate::service::records::Endpoint| {
            endpoint.template = Some(template);
        });
        let change = EndpointChange { settings, volumes: None };
        Ok(service.update_endpoint(who, &input.endpoint_id, change).await.map_err(failed)?.into())
    }

    async fn delete_endpoint(&self, context: &Context<'_>, id: String) -> Result<Option<Void>> {
        let (service, who) = parts(context)?;
        service.delete_endpoint(who, &id).await.map_err(failed)?;
        Ok(None)
    }

    /// Makes a template, or changes the one whose id is given.
    async fn save_template(&self, context: &Context<'_>, input: Option<SaveTemplateInput>) -> Result<PodTemplate> {
        let (service, who) = parts(context)?;
        let input = needed(input)?;
        let env = input.env.is_some().then(|| environment(input.env));
        let ports = input.ports.map(|ports| input::split(&ports));
        let template = if let Some(id) = input.id.filter(|id| !id.is_empty()) {
            let change = move |template: &mut crate::service::records::Template| {
                set(&mut template.name, input.name);
                set(&mut template.config.image, input.image_name);
                set(&mut template.config.args, input.docker_args);
                set(&mut template.config.disk_gb, input.container_disk_in_gb);
                set(&mut template.config.volume_gb, input.volume_in_gb);
                set(&mut template.config.mount_path, input.volume_mount_path);
                set(&mut template.config.ports, ports);
                set(&mut template.config.env, env);
                set(&mut template.serverless, input.is_serverless);
                set(&mut template.public, input.is_public);
                set(&mut template.readme, input.readme);
                set(&mut template.start_ssh, input.start_ssh);
                set(&mut template.start_jupyter, input.start_jupyter);
                set(&mut template.category, input.category);
            };
            service.update_template(who, &id, Box::new(change)).await
        } else {
            let wanted = NewTemplate {
                name: input.name.unwrap_or_default(),
                config: ContainerConfig {
                    image: input.image_name.unwrap_or_default(),
                    args: input.docker_args.unwrap_or_default(),
                    entrypoint: Vec::new(),
                    start_command: Vec::new(),
                    env: env.unwrap_or_default(),
                    ports: ports.unwrap_or_default(),
                    disk_gb: input.container_disk_in_gb.unwrap_or(10),
                    volume_gb: input.volume_in_gb.unwrap_or(0),
                    mount_path: input.volume_mount_path.unwrap_or_default(),
                },
                readme: input.readme.unwrap_or_default(),
                category: input.category.unwrap_or_else(|| "NVIDIA".to_owned()),
                serverless: input.is_serverless.unwrap_or(false),
                public: input.is_public.unwrap_or(false),
                start_ssh: input.start_ssh.unwrap_or(true),
                start_jupyter: input.start_jupyter.unwrap_or(true),
                allowed_cuda_versions: Vec::new(),
            };
            service.create_template(who, wanted).await
        };
        Ok(template.map_err(failed)?.into())
    }

    async fn delete_template(&self, context: &Context<'_>, template_name: String) -> Result<Option<Void>> {
        let (service, who) = parts(context)?;
        let named = service.templates(who).map_err(failed)?.into_iter().find(|template| template.name == template_name);
        let Some(template) = named else { return Err(failed(ServiceError::NotFound { what: "template" })) };
        service.delete_template(who, &template.id).await.map_err(failed)?;
        Ok(None)
    }
}
