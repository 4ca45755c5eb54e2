//! stub
use super::Template;
use std::sync::Arc;
/// stub
#[derive(Debug, Clone, Default)]
pub struct Templates(Vec<Arc<Template>>);
impl Templates {
    /// stub
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Template>> {
        self.0.iter()
    }
    /// stub
    pub fn get(&self, name: &str) -> Option<&Arc<Template>> {
        self.0.iter().find(|t| t.name.as_str() == name)
    }
}
/// stub
#[derive(Debug, Clone)]
pub struct PublicAddress;
impl PublicAddress {
    /// stub
    pub fn instance_url(&self, id: &crate::instance::InstanceId) -> String {
        id.to_string()
    }
    /// stub
    pub fn instance_host(&self, id: &crate::instance::InstanceId) -> String {
        id.to_string()
    }
    /// stub
    pub fn instance_authority(&self, id: &crate::instance::InstanceId) -> String {
        id.to_string()
    }
}
