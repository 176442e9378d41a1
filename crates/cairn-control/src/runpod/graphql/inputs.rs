//! What GraphQL mutations take. Names of types and fields are Runpod's, and what Cairn has no use for is taken and ignored, as long
//! as ignoring it takes nothing from the user's data.

use async_graphql::{Enum, InputObject};

#[derive(InputObject)]
pub(super) struct CreateNetworkVolumeInput {
    pub(super) name: String,
    /// In GB.
    pub(super) size: u64,
    pub(super) data_center_id: String,
}

#[derive(InputObject)]
pub(super) struct UpdateNetworkVolumeInput {
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) size: Option<u64>,
}

#[derive(InputObject)]
pub(super) struct DeleteNetworkVolumeInput {
    pub(super) id: String,
}

#[derive(InputObject)]
pub(super) struct UpdateUserSettingsInput {
    pub(super) pub_key: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum CloudTypeEnum {
    All,
    Secure,
    Community,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum ComputeType {
    Gpu,
    Cpu,
}

#[derive(InputObject)]
pub(super) struct EnvironmentVariableInput {
    pub(super) key: String,
    pub(super) value: Option<String>,
}

#[derive(InputObject)]
pub(super) struct PodFindAndDeployOnDemandInput {
    pub(super) name: Option<String>,
    pub(super) image_name: Option<String>,
    pub(super) template_id: Option<String>,
    pub(super) docker_args: Option<String>,
    pub(super) env: Option<Vec<EnvironmentVariableInput>>,
    pub(super) ports: Option<String>,
    pub(super) container_disk_in_gb: Option<u32>,
    pub(super) volume_in_gb: Option<u32>,
    pub(super) volume_mount_path: Option<String>,
    pub(super) volume_key: Option<String>,
    pub(super) network_volume_id: Option<String>,
    pub(super) data_center_id: Option<String>,
    pub(super) country_code: Option<String>,
    pub(super) cloud_type: Option<CloudTypeEnum>,
    pub(super) compute_type: Option<ComputeType>,
    pub(super) gpu_type_id: Option<String>,
    pub(super) gpu_type_id_list: Option<Vec<String>>,
    pub(super) gpu_count: Option<u32>,
    pub(super) instance_id: Option<String>,
    pub(super) min_vcpu_count: Option<u32>,
    pub(super) min_memory_in_gb: Option<u32>,
    pub(super) min_disk: Option<u32>,
    pub(super) min_download: Option<u32>,
    pub(super) min_upload: Option<u32>,
    pub(super) support_public_ip: Option<bool>,
    pub(super) start_ssh: Option<bool>,
    pub(super) start_jupyter: Option<bool>,
    pub(super) global_network: Option<bool>,
    pub(super) allowed_cuda_versions: Option<Vec<String>>,
    pub(super) container_registry_auth_id: Option<String>,
    pub(super) deploy_cost: Option<f64>,
    pub(super) bid_per_gpu: Option<f64>,
    pub(super) stop_after: Option<String>,
    pub(super) terminate_after: Option<String>,
}

#[derive(InputObject)]
#[graphql(name = "deployCpuPodInput")]
pub(super) struct DeployCpuPodInput {
    pub(super) name: Option<String>,
    pub(super) image_name: Option<String>,
    pub(super) template_id: Option<String>,
    pub(super) docker_args: Option<String>,
    pub(super) env: Option<Vec<EnvironmentVariableInput>>,
    pub(super) ports: Option<String>,
    pub(super) container_disk_in_gb: Option<u32>,
    pub(super) volume_in_gb: Option<u32>,
    pub(super) volume_mount_path: Option<String>,
    pub(super) volume_key: Option<String>,
    pub(super) network_volume_id: Option<String>,
    pub(super) data_center_id: Option<String>,
    pub(super) country_code: Option<String>,
    pub(super) cloud_type: Option<CloudTypeEnum>,
    pub(super) instance_id: Option<String>,
    pub(super) deploy_cost: Option<f64>,
    pub(super) min_download: Option<u32>,
    pub(super) min_upload: Option<u32>,
    pub(super) start_ssh: Option<bool>,
    pub(super) start_jupyter: Option<bool>,
    pub(super) container_registry_auth_id: Option<String>,
    pub(super) stop_after: Option<String>,
    pub(super) terminate_after: Option<String>,
}

#[derive(InputObject)]
pub(super) struct PodStopInput {
    pub(super) pod_id: String,
    pub(super) increment_version: Option<bool>,
}

#[derive(InputObject)]
pub(super) struct PodResumeInput {
    pub(super) pod_id: String,
    pub(super) gpu_count: Option<u32>,
    pub(super) sync_machine: Option<bool>,
    pub(super) compute_type: Option<ComputeType>,
}

#[derive(InputObject)]
pub(super) struct PodTerminateInput {
    pub(super) pod_id: String,
}

#[derive(InputObject)]
pub(super) struct EndpointInput {
    /// Changes this endpoint instead of making one.
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) template_id: Option<String>,
    /// Pools or types, with commas; a minus excludes one.
    pub(super) gpu_ids: Option<String>,
    pub(super) gpu_count: Option<u32>,
    pub(super) instance_ids: Option<Vec<String>>,
    pub(super) network_volume_id: Option<String>,
    pub(super) network_volume_ids: Option<Vec<NetworkVolumeIdInput>>,
    /// Data centres, with commas.
    pub(super) locations: Option<String>,
    pub(super) idle_timeout: Option<u32>,
    pub(super) scaler_type: Option<String>,
    pub(super) scaler_value: Option<u64>,
    pub(super) workers_min: Option<u32>,
    pub(super) workers_max: Option<u32>,
    pub(super) execution_timeout_ms: Option<u64>,
    pub(super) flash_boot_type: Option<FlashBootType>,
    pub(super) allowed_cuda_versions: Option<String>,
    pub(super) min_cuda_version: Option<String>,
    pub(super) r#type: Option<String>,
    pub(super) env: Option<Vec<EnvironmentVariableInput>>,
}

#[derive(InputObject)]
pub(super) struct NetworkVolumeIdInput {
    pub(super) network_volume_id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub(super) enum FlashBootType {
    Off,
    Flashboot,
    PriorityFlashboot,
}

impl FlashBootType {
    pub(super) fn name(self) -> &'static str {
        match self {
            FlashBootType::Off => "OFF",
            FlashBootType::Flashboot => "FLASHBOOT",
            FlashBootType::PriorityFlashboot => "PRIORITY_FLASHBOOT",
        }
    }
}

#[derive(InputObject)]
pub(super) struct UpdateEndpointTemplateInput {
    pub(super) endpoint_id: String,
    pub(super) template_id: String,
}

#[derive(InputObject)]
pub(super) struct SaveTemplateInput {
    /// Changes this template instead of making one.
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) image_name: Option<String>,
    pub(super) docker_args: Option<String>,
    pub(super) container_disk_in_gb: Option<u32>,
    pub(super) volume_in_gb: Option<u32>,
    pub(super) volume_mount_path: Option<String>,
    pub(super) ports: Option<String>,
    pub(super) env: Option<Vec<EnvironmentVariableInput>>,
    pub(super) is_serverless: Option<bool>,
    pub(super) is_public: Option<bool>,
    pub(super) readme: Option<String>,
    pub(super) start_ssh: Option<bool>,
    pub(super) start_jupyter: Option<bool>,
    pub(super) start_script: Option<String>,
    pub(super) category: Option<String>,
    pub(super) container_registry_auth_id: Option<String>,
    pub(super) advanced_start: Option<bool>,
}
