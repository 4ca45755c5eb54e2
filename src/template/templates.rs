//! The templates of a server.

use std::collections::HashMap;
use std::sync::Arc;

use super::Template;
use crate::instance::TemplateName;

/// The name of the template that an acquire means when it names none.
pub const DEFAULT_TEMPLATE: &str = "default";

/// All templates, in the order of the file. There is at least one, and no two have the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Templates {
    list: Vec<Arc<Template>>,
    places: HashMap<String, usize>,
}

impl Templates {
    /// Takes a list; `None` when it is empty or a name repeats.
    pub fn new(list: Vec<Template>) -> Option<Self> {
        let places: HashMap<_, _> =
            list.iter().enumerate().map(|(i, template)| (template.name.as_str().to_owned(), i)).collect();
        let fine = !list.is_empty() && places.len() == list.len();
        fine.then(|| Self { list: list.into_iter().map(Arc::new).collect(), places })
    }

    /// The template of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Template>> {
        self.places.get(name).map(|place| &self.list[*place])
    }

    /// All of them, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Template>> {
        self.list.iter()
    }

    /// The name of the one that is meant when none is named: `default`, else the first.
    pub fn default_name(&self) -> &TemplateName {
        &self.get(DEFAULT_TEMPLATE).unwrap_or(&self.list[0]).name
    }
}
