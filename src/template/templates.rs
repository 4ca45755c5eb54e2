//! All templates of a server.

use std::collections::HashMap;
use std::sync::Arc;

use super::Template;
use crate::instance::TemplateName;

/// The name of the template that an acquire gets when it names none.
pub const DEFAULT_TEMPLATE: &str = "default";

/// All templates, in the order of the file. There is at least one, and names are unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Templates {
    list: Vec<Arc<Template>>,
    index: HashMap<String, usize>,
}

impl Templates {
    /// Collects templates; `None` when there are none or a name repeats.
    pub fn new(list: Vec<Template>) -> Option<Self> {
        let index: HashMap<_, _> =
            list.iter().enumerate().map(|(i, template)| (template.name.as_str().to_owned(), i)).collect();
        let valid = !list.is_empty() && index.len() == list.len();
        valid.then(|| Self { list: list.into_iter().map(Arc::new).collect(), index })
    }

    /// Returns the template of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Template>> {
        self.index.get(name).map(|position| &self.list[*position])
    }

    /// Iterates over the templates in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Template>> {
        self.list.iter()
    }

    /// Returns the name of the template that an acquire gets when it names none: `default`, else the first.
    pub fn default_name(&self) -> &TemplateName {
        &self.get(DEFAULT_TEMPLATE).unwrap_or(&self.list[0]).name
    }
}
