//! Templates: named configurations of containers. Each account has its own; some are everybody's.

use std::sync::Arc;

use super::access::{Permission, Principal};
use super::error::ServiceError;
use super::records::{ContainerConfig, Template};
use super::store::{Change, Record, Table};
use super::{Service, catalog, ids, validate};

const TEMPLATES_MAX: usize = 1000;
const README_MAX: usize = 128 * 1024;

/// A template that shall be made.
#[derive(Clone, Debug)]
pub struct NewTemplate {
    pub name: String,
    pub config: ContainerConfig,
    pub readme: String,
    pub category: String,
    pub serverless: bool,
    pub public: bool,
    pub start_ssh: bool,
    pub start_jupyter: bool,
    pub allowed_cuda_versions: Vec<String>,
}

/// Changes a template in place; what it leaves alone stays.
pub type TemplateChange = Box<dyn FnOnce(&mut Template) + Send>;

fn check(template: &Template) -> Result<(), ServiceError> {
    validate::name(&template.name, "template")?;
    if template.config.image.is_empty() {
        return Err(ServiceError::invalid("a template needs an image"));
    }
    if !matches!(template.category.as_str(), "NVIDIA" | "AMD" | "CPU") {
        return Err(ServiceError::invalid("a template's category is NVIDIA, AMD or CPU"));
    }
    if template.readme.len() > README_MAX {
        return Err(ServiceError::Invalid(format!("a readme takes at most {README_MAX} bytes")));
    }
    validate::texts(&template.allowed_cuda_versions, "list of CUDA versions")?;
    validate::config(&template.config)
}

impl Service {
    /// The account's own.
    pub fn templates(&self, who: &Principal) -> Result<Vec<Template>, ServiceError> {
        who.require(Permission::Look)?;
        let state = self.state.read();
        Ok(state.templates.values().filter(|template| template.account == who.account).cloned().collect())
    }

    /// One of the account's own, or of everybody's.
    pub fn template(&self, who: &Principal, id: &str) -> Result<Template, ServiceError> {
        who.require(Permission::Look)?;
        self.template_of(&who.account, id)
    }

    pub(super) fn template_of(&self, account: &str, id: &str) -> Result<Template, ServiceError> {
        let own = self.state.read().templates.get(id).filter(|template| template.account == account).cloned();
        own.or_else(|| catalog::public_templates().into_iter().find(|template| template.id == id))
            .ok_or(ServiceError::NotFound { what: "template" })
    }

    pub async fn create_template(
        self: &Arc<Self>,
        who: &Principal,
        wanted: NewTemplate,
    ) -> Result<Template, ServiceError> {
        who.require(Permission::ChangeCompute)?;
        let account = who.account.clone();
        self.change(|service| async move {
            let template = {
                let state = service.state.read();
                if state.templates.values().filter(|template| template.account == account).count() >= TEMPLATES_MAX {
                    return Err(ServiceError::TooMany { what: "templates", limit: TEMPLATES_MAX });
                }
                Template {
                    id: ids::short(|id| state.templates.contains_key(id)),
                    account,
                    name: wanted.name,
                    config: wanted.config,
                    readme: wanted.readme,
                    category: wanted.category,
                    serverless: wanted.serverless,
                    public: wanted.public,
                    start_ssh: wanted.start_ssh,
                    start_jupyter: wanted.start_jupyter,
                    allowed_cuda_versions: wanted.allowed_cuda_versions,
                }
            };
            check(&template)?;
            service.commit(vec![Change::Put(Record::Template(Box::new(template.clone())))]).await?;
            Ok(template)
        })
        .await
    }

    /// Changes one of the account's own. Pods that were made from it stay as they are.
    pub async fn update_template(
        self: &Arc<Self>,
        who: &Principal,
        id: &str,
        change: TemplateChange,
    ) -> Result<Template, ServiceError> {
        who.require(Permission::ChangeCompute)?;
        let (account, id) = (who.account.clone(), id.to_owned());
        self.change(|service| async move {
            let mut template = service.own_template(&account, &id)?;
            change(&mut template);
            check(&template)?;
            service.commit(vec![Change::Put(Record::Template(Box::new(template.clone())))]).await?;
            Ok(template)
        })
        .await
    }

    /// Refused while an endpoint uses it.
    pub async fn delete_template(self: &Arc<Self>, who: &Principal, id: &str) -> Result<(), ServiceError> {
        who.require(Permission::ChangeCompute)?;
        let (account, id) = (who.account.clone(), id.to_owned());
        self.change(|service| async move {
            let template = service.own_template(&account, &id)?;
            let used = service
                .state
                .read()
                .endpoints
                .values()
                .find(|endpoint| endpoint.template.as_ref() == Some(&id))
                .map(|endpoint| endpoint.id.clone());
            if let Some(endpoint) = used {
                return Err(ServiceError::Invalid(format!(
                    "the template is used by endpoint {endpoint}: delete that first"
                )));
            }
            service.commit(vec![Change::Remove(Table::Templates, template.id)]).await
        })
        .await
    }

    fn own_template(&self, account: &str, id: &str) -> Result<Template, ServiceError> {
        let template = self.template_of(account, id)?;
        if template.account == account { Ok(template) } else { Err(ServiceError::NotFound { what: "template" }) }
    }
}
