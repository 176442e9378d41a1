//! Serverless endpoints, as far as volumes go: records that hold volumes. Workers are not run.

use std::sync::Arc;

use super::access::{Permission, Principal};
use super::error::ServiceError;
use super::records::{ContainerConfig, Endpoint, EndpointCompute, Scaler};
use super::store::{Change, Record, Table};
use super::{Service, ids, validate};

const ENDPOINTS_MAX: usize = 1000;
const WORKERS_MAX: u32 = 10_000;

/// An endpoint that shall be made.
#[derive(Clone, Debug)]
pub struct NewEndpoint {
    pub name: String,
    pub template: Option<String>,
    /// Take the template's settings over now, beneath `config`, instead of pointing at it.
    pub resolve_template: bool,
    pub config: ContainerConfig,
    /// Ids, as the client wrote them.
    pub volumes: Vec<String>,
    pub data_centers: Vec<String>,
    pub compute: EndpointCompute,
    pub load_balancer: bool,
    pub workers_min: u32,
    pub workers_max: u32,
    pub idle_timeout_s: u32,
    pub scaler: Scaler,
    pub scaler_value_milli: u64,
    pub timeout_ms: u64,
    pub flashboot: String,
    pub allowed_cuda_versions: Vec<String>,
    pub min_cuda_version: Option<String>,
}

/// What shall change.
pub struct EndpointChange {
    /// Changes everything but the volumes in place.
    pub settings: Box<dyn FnOnce(&mut Endpoint) + Send>,
    /// Ids, as the client wrote them; `None` leaves them.
    pub volumes: Option<Vec<String>>,
}

impl Service {
    pub fn endpoints(&self, who: &Principal) -> Result<Vec<Endpoint>, ServiceError> {
        who.require(Permission::Look)?;
        let state = self.state.read();
        Ok(state.endpoints.values().filter(|endpoint| endpoint.account == who.account).cloned().collect())
    }

    pub fn endpoint(&self, who: &Principal, id: &str) -> Result<Endpoint, ServiceError> {
        who.require(Permission::Look)?;
        self.endpoint_of(&who.account, id)
    }

    fn endpoint_of(&self, account: &str, id: &str) -> Result<Endpoint, ServiceError> {
        let endpoint = self.state.read().endpoints.get(id).filter(|endpoint| endpoint.account == account).cloned();
        endpoint.ok_or(ServiceError::NotFound { what: "endpoint" })
    }

    pub async fn create_endpoint(
        self: &Arc<Self>,
        who: &Principal,
        wanted: NewEndpoint,
    ) -> Result<Endpoint, ServiceError> {
        who.require(Permission::ChangeCompute)?;
        let account = who.account.clone();
        self.change(|service| async move {
            service.require_balance(&account)?;
            let id = {
                let state = service.state.read();
                if state.endpoints.values().filter(|endpoint| endpoint.account == account).count() >= ENDPOINTS_MAX {
                    return Err(ServiceError::TooMany { what: "endpoints", limit: ENDPOINTS_MAX });
                }
                ids::long(|id| state.endpoints.contains_key(id))
            };
            let mut wanted = wanted;
            wanted.template = wanted.template.filter(|template| !template.is_empty());
            if wanted.resolve_template
                && let Some(template) = wanted.template.take()
            {
                let template = service.template_of(&account, &template)?;
                if !template.serverless {
                    return Err(ServiceError::invalid("an endpoint needs a serverless template"));
                }
                wanted.config = overlaid(template.config, wanted.config);
            }
            let mut endpoint = Endpoint {
                id,
                account,
                name: wanted.name,
                template: wanted.template,
                config: wanted.config,
                volumes: Vec::new(),
                data_centers: wanted.data_centers,
                compute: wanted.compute,
                load_balancer: wanted.load_balancer,
                workers_min: wanted.workers_min,
                workers_max: wanted.workers_max,
                idle_timeout_s: wanted.idle_timeout_s,
                scaler: wanted.scaler,
                scaler_value_milli: wanted.scaler_value_milli,
                timeout_ms: wanted.timeout_ms,
                flashboot: wanted.flashboot,
                allowed_cuda_versions: wanted.allowed_cuda_versions,
                min_cuda_version: wanted.min_cuda_version,
                created: service.now(),
                version: 1,
            };
            service.attach(&mut endpoint, &wanted.volumes)?;
            service.check_endpoint(&endpoint)?;
            service.commit(vec![Change::Put(Record::Endpoint(Box::new(endpoint.clone())))]).await?;
            Ok(endpoint)
        })
        .await
    }

    pub async fn update_endpoint(
        self: &Arc<Self>,
        who: &Principal,
        id: &str,
        change: EndpointChange,
    ) -> Result<Endpoint, ServiceError> {
        who.require(Permission::ChangeCompute)?;
        let (account, id) = (who.account.clone(), id.to_owned());
        self.change(|service| async move {
            let mut endpoint = service.endpoint_of(&account, &id)?;
            (change.settings)(&mut endpoint);
            if let Some(volumes) = change.volumes {
                service.attach(&mut endpoint, &volumes)?;
            }
            service.check_endpoint(&endpoint)?;
            endpoint.version += 1;
            service.commit(vec![Change::Put(Record::Endpoint(Box::new(endpoint.clone())))]).await?;
            Ok(endpoint)
        })
        .await
    }

    pub async fn delete_endpoint(self: &Arc<Self>, who: &Principal, id: &str) -> Result<(), ServiceError> {
        who.require(Permission::ChangeCompute)?;
        let (account, id) = (who.account.clone(), id.to_owned());
        self.change(|service| async move {
            let endpoint = service.endpoint_of(&account, &id)?;
            service.commit(vec![Change::Remove(Table::Endpoints, endpoint.id)]).await
        })
        .await
    }

    /// Sets the volumes. Each must be where workers may be; with several, workers go where one of them is.
    fn attach(&self, endpoint: &mut Endpoint, volumes: &[String]) -> Result<(), ServiceError> {
        let mut found = Vec::new();
        for id in volumes.iter().filter(|id| !id.is_empty()) {
            let view = self.volume_of(&endpoint.account, id)?;
            if !found.contains(&view.id) {
                found.push(view.id);
            }
        }
        endpoint.volumes = found;
        Ok(())
    }

    fn check_endpoint(&self, endpoint: &Endpoint) -> Result<(), ServiceError> {
        validate::name(&endpoint.name, "endpoint")?;
        validate::config(&endpoint.config)?;
        validate::texts(&endpoint.data_centers, "list of data centers")?;
        validate::texts(&endpoint.allowed_cuda_versions, "list of CUDA versions")?;
        match &endpoint.template {
            Some(template) => drop(self.template_of(&endpoint.account, template)?),
            None if endpoint.config.image.is_empty() => {
                return Err(ServiceError::invalid("an endpoint needs an image or a template"));
            }
            None => {}
        }
        if endpoint.workers_min > endpoint.workers_max {
            return Err(ServiceError::invalid("an endpoint's minimum number of workers cannot exceed its maximum"));
        }
        if endpoint.workers_max > WORKERS_MAX {
            return Err(ServiceError::Invalid(format!("an endpoint takes at most {WORKERS_MAX} workers")));
        }
        if !(1..=3600).contains(&endpoint.idle_timeout_s) {
            return Err(ServiceError::invalid("the idle timeout is 1 to 3600 seconds"));
        }
        if !matches!(endpoint.flashboot.as_str(), "OFF" | "FLASHBOOT" | "PRIORITY_FLASHBOOT") {
            return Err(ServiceError::invalid("flash boot is OFF, FLASHBOOT or PRIORITY_FLASHBOOT"));
        }
        for center in &endpoint.data_centers {
            self.check_data_center(center)?;
        }
        for id in &endpoint.volumes {
            let view = self.volume_of(&endpoint.account, id.as_str())?;
            if !endpoint.data_centers.is_empty() && !endpoint.data_centers.contains(&view.data_center) {
                return Err(ServiceError::OtherDataCenter { volume: view.id, of_volume: view.data_center });
            }
        }
        Ok(())
    }
}

/// What `over` sets, and the rest from `base`; environments are merged.
fn overlaid(base: ContainerConfig, over: ContainerConfig) -> ContainerConfig {
    let text = |base: String, over: String| if over.is_empty() { base } else { over };
    let list = |base: Vec<String>, over: Vec<String>| if over.is_empty() { base } else { over };
    let number = |base: u32, over: u32| if over == 0 { base } else { over };
    let mut env = base.env;
    env.extend(over.env);
    ContainerConfig {
        image: text(base.image, over.image),
        args: text(base.args, over.args),
        entrypoint: list(base.entrypoint, over.entrypoint),
        start_command: list(base.start_command, over.start_command),
        env,
        ports: list(base.ports, over.ports),
        disk_gb: number(base.disk_gb, over.disk_gb),
        volume_gb: number(base.volume_gb, over.volume_gb),
        mount_path: text(base.mount_path, over.mount_path),
    }
}
