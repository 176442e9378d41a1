//! What GraphQL answers are made of. Names of fields are Runpod's.

use async_graphql::{ComplexObject, Context, InputObject, Result, SimpleObject, scalar};
use serde::{Deserialize, Serialize};

use super::{failed, parts};
use crate::runpod::input;
use crate::service::catalog;
use crate::service::records::{self, EndpointCompute, Hardware};
use crate::service::{AccountView, PodView, VolumeView};

/// Nothing: what an operation returns that has no result.
#[derive(Serialize, Deserialize)]
pub(super) struct Void(Option<()>);
scalar!(Void, "Void", "Always null.");

#[derive(SimpleObject)]
#[graphql(complex)]
pub(super) struct User {
    id: String,
    email: String,
    pub_key: String,
    /// In dollars.
    client_balance: f64,
    /// In dollars.
    current_spend_per_hr: f64,
    spend_limit: f64,
    notify_pods_stale: bool,
    notify_pods_general: bool,
    notify_low_balance: bool,
    /// Sentences about what follows from the balance. Cairn's own.
    warnings: Vec<String>,
}

impl From<AccountView> for User {
    fn from(view: AccountView) -> Self {
        User {
            client_balance: view.balance.dollars(),
            current_spend_per_hr: view.spend_per_hour,
            spend_limit: 0.0,
            notify_pods_stale: false,
            notify_pods_general: false,
            notify_low_balance: view.account.prepaid,
            warnings: view.warnings,
            id: view.account.id,
            email: view.account.email,
            pub_key: view.account.public_keys,
        }
    }
}

#[ComplexObject]
impl User {
    async fn network_volumes(&self, context: &Context<'_>) -> Result<Vec<NetworkVolume>> {
        let (service, who) = parts(context)?;
        Ok(service.volumes(who).map_err(failed)?.into_iter().map(NetworkVolume::from).collect())
    }

    async fn pods(&self, context: &Context<'_>) -> Result<Vec<Pod>> {
        let (service, who) = parts(context)?;
        Ok(service.pods(who).map_err(failed)?.into_iter().map(Pod::from).collect())
    }

    async fn endpoints(&self, context: &Context<'_>) -> Result<Vec<Endpoint>> {
        let (service, who) = parts(context)?;
        Ok(service.endpoints(who).map_err(failed)?.into_iter().map(Endpoint::from).collect())
    }

    async fn pod_templates(&self, context: &Context<'_>) -> Result<Vec<PodTemplate>> {
        let (service, who) = parts(context)?;
        Ok(service.templates(who).map_err(failed)?.into_iter().map(PodTemplate::from).collect())
    }
}

#[derive(SimpleObject)]
pub(super) struct NetworkVolume {
    id: String,
    name: String,
    /// In GB.
    size: u64,
    data_center_id: String,
    data_center: DataCenter,
}

impl From<VolumeView> for NetworkVolume {
    fn from(view: VolumeView) -> Self {
        NetworkVolume {
            id: view.id.to_string(),
            name: view.name,
            size: view.size_gb,
            data_center: DataCenter::named(&view.data_center),
            data_center_id: view.data_center,
        }
    }
}

#[derive(SimpleObject)]
pub(super) struct DataCenter {
    id: String,
    name: String,
    location: String,
    storage_support: bool,
    #[graphql(name = "s3apiEnabled")]
    s3api_enabled: bool,
    global_network: bool,
    listed: bool,
    gpu_availability: Vec<GpuAvailability>,
}

impl DataCenter {
    fn named(id: &str) -> Self {
        let known = catalog::data_centers().into_iter().find(|center| center.id == id);
        known.map_or_else(
            || DataCenter {
                id: id.to_owned(),
                name: id.to_owned(),
                location: "UNKNOWN".to_owned(),
                storage_support: true,
                s3api_enabled: false,
                global_network: false,
                listed: false,
                gpu_availability: Vec::new(),
            },
            DataCenter::from,
        )
    }
}

impl From<catalog::DataCenter> for DataCenter {
    fn from(center: catalog::DataCenter) -> Self {
        DataCenter {
            id: center.id,
            name: center.name,
            location: center.region.to_owned(),
            storage_support: true,
            s3api_enabled: false,
            global_network: false,
            listed: true,
            gpu_availability: Vec::new(),
        }
    }
}

/// Never promised, so always empty; here for the clients' sake.
#[derive(SimpleObject)]
pub(super) struct GpuAvailability {
    gpu_type_id: String,
    display_name: String,
    stock_status: Option<String>,
    available: bool,
}

#[derive(InputObject)]
pub(super) struct GpuLowestPriceInput {
    gpu_count: Option<u32>,
    secure_cloud: Option<bool>,
    data_center_id: Option<String>,
}

/// Prices are 0: pods run on whatever the server runs on.
#[derive(SimpleObject)]
#[graphql(complex)]
pub(super) struct GpuType {
    id: String,
    display_name: String,
    manufacturer: String,
    memory_in_gb: u32,
    max_gpu_count: u32,
    cuda_cores: u32,
    secure_cloud: bool,
    community_cloud: bool,
    secure_price: f64,
    community_price: f64,
    one_month_price: Option<f64>,
    three_month_price: Option<f64>,
    six_month_price: Option<f64>,
    one_week_price: Option<f64>,
    community_spot_price: f64,
    secure_spot_price: f64,
}

impl From<catalog::GpuType> for GpuType {
    fn from(gpu: catalog::GpuType) -> Self {
        GpuType {
            id: gpu.id.to_owned(),
            display_name: gpu.display_name().to_owned(),
            manufacturer: gpu.manufacturer().to_owned(),
            memory_in_gb: gpu.memory_gb,
            max_gpu_count: catalog::GPU_COUNT_MAX,
            cuda_cores: 0,
            secure_cloud: true,
            community_cloud: true,
            secure_price: 0.0,
            community_price: 0.0,
            one_month_price: None,
            three_month_price: None,
            six_month_price: None,
            one_week_price: None,
            community_spot_price: 0.0,
            secure_spot_price: 0.0,
        }
    }
}

#[derive(SimpleObject)]
pub(super) struct LowestPrice {
    minimum_bid_price: f64,
    uninterruptable_price: f64,
    stock_status: Option<String>,
}

#[ComplexObject]
impl GpuType {
    async fn lowest_price(&self, input: Option<GpuLowestPriceInput>) -> LowestPrice {
        // Whatever is asked for has the same price.
        drop(input);
        LowestPrice { minimum_bid_price: 0.0, uninterruptable_price: 0.0, stock_status: None }
    }
}

#[derive(SimpleObject)]
pub(super) struct CpuFlavor {
    id: String,
    display_name: String,
    group_id: String,
    min_vcpu: u32,
    max_vcpu: u32,
    ram_multiplier: u32,
}

impl From<catalog::CpuFlavor> for CpuFlavor {
    fn from(flavor: catalog::CpuFlavor) -> Self {
        CpuFlavor {
            id: flavor.id.to_owned(),
            display_name: flavor.name.to_owned(),
            group_id: flavor.id.to_owned(),
            min_vcpu: catalog::VCPU_MIN,
            max_vcpu: catalog::VCPU_MAX,
            ram_multiplier: flavor.memory_per_vcpu,
        }
    }
}

#[derive(SimpleObject)]
pub(super) struct EnvironmentVariable {
    key: String,
    value: String,
}

fn environment(env: std::collections::BTreeMap<String, String>) -> Vec<EnvironmentVariable> {
    env.into_iter().map(|(key, value)| EnvironmentVariable { key, value }).collect()
}

#[derive(SimpleObject)]
pub(super) struct PodMachine {
    pod_host_id: String,
    gpu_display_name: String,
    gpu_type_id: Option<String>,
    location: String,
    data_center_id: String,
    secure_cloud: bool,
}

#[derive(SimpleObject)]
pub(super) struct PodRuntimePort {
    ip: String,
    is_ip_public: bool,
    private_port: u16,
    public_port: u16,
    r#type: String,
}

#[derive(SimpleObject)]
pub(super) struct PodRuntime {
    uptime_in_seconds: i64,
    ports: Vec<PodRuntimePort>,
}

#[derive(SimpleObject)]
pub(super) struct Pod {
    id: String,
    name: String,
    image_name: String,
    desired_status: String,
    last_status_change: String,
    env: Vec<String>,
    docker_args: String,
    docker_id: Option<String>,
    container_disk_in_gb: u32,
    volume_in_gb: u32,
    volume_mount_path: String,
    network_volume_id: Option<String>,
    network_volume: Option<NetworkVolume>,
    ports: String,
    port: Option<u16>,
    gpu_count: u32,
    vcpu_count: u32,
    memory_in_gb: u32,
    cost_per_hr: f64,
    adjusted_cost_per_hr: f64,
    #[graphql(name = "podType")]
    rental: String,
    machine_id: String,
    machine: PodMachine,
    runtime: Option<PodRuntime>,
    uptime_seconds: i64,
    template_id: Option<String>,
    locked: bool,
    created_at: String,
    last_started_at: Option<String>,
    data_center_id: String,
}

impl From<PodView> for Pod {
    fn from(view: PodView) -> Self {
        let runtime = view.uptime_s.map(|uptime_in_seconds| PodRuntime {
            uptime_in_seconds,
            ports: view
                .ports
                .iter()
                .map(|port| PodRuntimePort {
                    ip: port.host.clone(),
                    is_ip_public: true,
                    private_port: port.container_port,
                    public_port: port.host_port,
                    r#type: port.protocol.clone(),
                })
                .collect(),
        });
        let note = format!("{}: {}", view.note, view.pod.changed);
        let pod = view.pod;
        let (gpu_count, gpu) = match &pod.hardware {
            Hardware::Gpu { id, count } => (*count, catalog::gpu_types().find(|gpu| gpu.id == id)),
            Hardware::Cpu { .. } => (0, None),
        };
        Pod {
            machine: PodMachine {
                pod_host_id: input::host_id(&pod.id),
                gpu_display_name: gpu.map_or("unknown", catalog::GpuType::display_name).to_owned(),
                gpu_type_id: gpu.map(|gpu| gpu.id.to_owned()),
                location: pod.data_center.clone(),
                data_center_id: pod.data_center.clone(),
                secure_cloud: pod.cloud == records::Cloud::Secure,
            },
            name: pod.name,
            image_name: pod.config.image,
            desired_status: pod.desired.name().to_owned(),
            last_status_change: note,
            env: pod.config.env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
            docker_args: pod.config.args,
            docker_id: pod.container,
            container_disk_in_gb: pod.config.disk_gb,
            volume_in_gb: pod.config.volume_gb,
            volume_mount_path: pod.config.mount_path,
            network_volume_id: pod.volume.map(|id| id.to_string()),
            network_volume: view.volume.map(NetworkVolume::from),
            ports: pod.config.ports.join(","),
            port: None,
            gpu_count,
            vcpu_count: pod.vcpu,
            memory_in_gb: pod.memory_gb,
            cost_per_hr: 0.0,
            adjusted_cost_per_hr: 0.0,
            rental: if pod.interruptible { "INTERRUPTABLE" } else { "RESERVED" }.to_owned(),
            machine_id: input::MACHINE_ID.to_owned(),
            runtime,
            uptime_seconds: view.uptime_s.unwrap_or(0),
            template_id: pod.template,
            locked: pod.locked,
            created_at: pod.created.to_string(),
            last_started_at: pod.started.map(|moment| moment.to_string()),
            data_center_id: pod.data_center,
            id: pod.id,
        }
    }
}

#[derive(SimpleObject)]
pub(super) struct PodTemplate {
    id: String,
    name: String,
    image_name: String,
    docker_args: String,
    container_disk_in_gb: u32,
    volume_in_gb: u32,
    volume_mount_path: String,
    ports: String,
    env: Vec<EnvironmentVariable>,
    is_serverless: bool,
    is_public: bool,
    readme: String,
    category: String,
    start_ssh: bool,
    start_jupyter: bool,
}

impl From<records::Template> for PodTemplate {
    fn from(template: records::Template) -> Self {
        PodTemplate {
            id: template.id,
            name: template.name,
            image_name: template.config.image,
            docker_args: template.config.args,
            container_disk_in_gb: template.config.disk_gb,
            volume_in_gb: template.config.volume_gb,
            volume_mount_path: template.config.mount_path,
            ports: template.config.ports.join(","),
            env: environment(template.config.env),
            is_serverless: template.serverless,
            is_public: template.public,
            readme: template.readme,
            category: template.category,
            start_ssh: template.start_ssh,
            start_jupyter: template.start_jupyter,
        }
    }
}

#[derive(SimpleObject)]
#[graphql(complex)]
pub(super) struct Endpoint {
    id: String,
    name: String,
    user_id: String,
    template_id: Option<String>,
    gpu_ids: String,
    gpu_count: u32,
    network_volume_id: Option<String>,
    network_volume_ids: Vec<String>,
    locations: String,
    idle_timeout: u32,
    scaler_type: String,
    scaler_value: u64,
    workers_min: u32,
    workers_max: u32,
    workers_standby: u32,
    allowed_cuda_versions: String,
    flash_boot_type: String,
    execution_timeout_ms: u64,
    ai_key: Option<String>,
    r#type: String,
    version: u32,
    env: Vec<EnvironmentVariable>,
    created_at: String,
    /// Workers are not run.
    pods: Vec<Pod>,
}

impl From<records::Endpoint> for Endpoint {
    fn from(endpoint: records::Endpoint) -> Self {
        let (gpu_ids, gpu_count) = match endpoint.compute {
            EndpointCompute::Gpu { ids, count } => (ids.join(","), count),
            EndpointCompute::Cpu { .. } => (String::new(), 0),
        };
        let volumes: Vec<String> = endpoint.volumes.iter().map(ToString::to_string).collect();
        Endpoint {
            id: endpoint.id,
            name: endpoint.name,
            user_id: endpoint.account,
            template_id: endpoint.template,
            gpu_ids,
            gpu_count,
            network_volume_id: volumes.first().cloned(),
            network_volume_ids: volumes,
            locations: endpoint.data_centers.join(","),
            idle_timeout: endpoint.idle_timeout_s,
            scaler_type: endpoint.scaler.name().to_owned(),
            scaler_value: input::scaler_units(endpoint.scaler_value_milli),
            workers_min: endpoint.workers_min,
            workers_max: endpoint.workers_max,
            workers_standby: endpoint.workers_min,
            allowed_cuda_versions: endpoint.allowed_cuda_versions.join(","),
            flash_boot_type: endpoint.flashboot,
            execution_timeout_ms: endpoint.timeout_ms,
            ai_key: None,
            r#type: if endpoint.load_balancer { "LB" } else { "QB" }.to_owned(),
            version: endpoint.version,
            env: environment(endpoint.config.env),
            created_at: endpoint.created.to_string(),
            pods: Vec::new(),
        }
    }
}

#[ComplexObject]
impl Endpoint {
    async fn network_volume(&self, context: &Context<'_>) -> Result<Option<NetworkVolume>> {
        let (service, who) = parts(context)?;
        let Some(id) = &self.network_volume_id else { return Ok(None) };
        Ok(service.volume(who, id).ok().map(NetworkVolume::from))
    }

    async fn template(&self, context: &Context<'_>) -> Result<Option<PodTemplate>> {
        let (service, who) = parts(context)?;
        let Some(id) = &self.template_id else { return Ok(None) };
        Ok(service.template(who, id).ok().map(PodTemplate::from))
    }
}
