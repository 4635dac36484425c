//! Envoy's configuration as a file: finds the filters in it, and what surrounds them.
//!
//! A file is a bootstrap, an LDS, CDS or ECDS file, or a Kubernetes resource that contains the same. Fields have the names of
//! Envoy's protobuf messages, in `snake_case` or `lowerCamelCase`: Envoy accepts both.

use serde_json::{Map, Value};
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a file cannot be used.
#[derive(Debug)]
pub(crate) struct FileError {
    path: PathBuf,
    message: String,
}

impl FileError {
    pub(crate) fn new(path: &Path, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), message: message.into() }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}

/// A file's documents: YAML may have several.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    pub(crate) path: PathBuf,
    documents: Vec<Value>,
}

impl ConfigFile {
    pub(crate) fn read(path: &Path) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| FileError::new(path, error.to_string()))?;
        Self::parse(path, &text)
    }

    /// Reads YAML, of which JSON is a part. Errors have a line and no content, which may be a key.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        let options = serde_saphyr::options! { with_snippet: false };
        let documents = serde_saphyr::from_multiple_with_options(text, options)
            .map_err(|error| FileError::new(path, format!("not valid YAML: {error}")))?;
        Ok(Self { path: path.to_owned(), documents })
    }

    /// The filters in the file that are keen-edge: those whose names say so, else the only Wasm filter.
    pub(crate) fn filters(&self) -> Vec<Filter<'_>> {
        let mut filters = Vec::new();
        for document in &self.documents {
            find_filters(document, Surroundings::default(), &mut filters);
        }
        if filters.iter().any(Filter::is_named_keen_edge) {
            filters.retain(Filter::is_named_keen_edge);
        } else if filters.len() > 1 {
            filters.clear();
        }
        filters
    }

    /// The clusters that the file defines.
    pub(crate) fn clusters(&self) -> Vec<&Value> {
        let mut clusters = Vec::new();
        for document in &self.documents {
            let bootstrap = field(document, "static_resources");
            clusters.extend(bootstrap.map(|it| elements(it, "clusters")).into_iter().flatten());
            let resources = elements(document, "resources");
            clusters.extend(resources.filter(|resource| has_type(resource, ".Cluster")));
        }
        clusters
    }

    /// The bootstrap in it, if it is one.
    pub(crate) fn bootstrap(&self) -> Option<&Value> {
        self.documents.iter().find(|document| field(document, "static_resources").is_some())
    }
}

/// A Wasm filter.
#[derive(Debug)]
pub(crate) struct Filter<'f> {
    /// Its `PluginConfig`.
    pub(crate) plugin: &'f Value,
    pub(crate) around: Surroundings<'f>,
}

/// What a filter is in, as far as the file has it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Surroundings<'f> {
    pub(crate) listener: Option<&'f Value>,
    pub(crate) connection_manager: Option<&'f Value>,
    /// The filters before it.
    pub(crate) before: &'f [Value],
}

impl Filter<'_> {
    /// The name in Envoy's statistics.
    pub(crate) fn name(&self) -> &str {
        text(self.plugin, "name").unwrap_or("(without a name)")
    }

    fn is_named_keen_edge(&self) -> bool {
        let vm = field(self.plugin, "vm_config");
        let code = vm.and_then(|vm| field(vm, "code")).map(Value::to_string).unwrap_or_default();
        let names = [text(self.plugin, "name"), text(self.plugin, "root_id"), Some(code.as_str())];
        names.into_iter().flatten().any(|name| name.replace('_', "-").contains("keen-edge"))
    }

    /// The filter's configuration as Envoy passes it: the JSON of a Struct, or the text of a `StringValue`.
    pub(crate) fn configuration(&self) -> Vec<u8> {
        let configuration = field(self.plugin, "configuration");
        let value = configuration.and_then(|configuration| field(configuration, "value"));
        match value {
            Some(Value::String(text)) => text.clone().into_bytes(),
            Some(value) if value != &Value::Object(Map::new()) => value.to_string().into_bytes(),
            _ => Vec::new(),
        }
    }
}

fn find_filters<'f>(value: &'f Value, around: Surroundings<'f>, found: &mut Vec<Filter<'f>>) {
    match value {
        Value::Object(members) => {
            let mut around = around;
            if field(value, "filter_chains").is_some()
                || field(value, "default_filter_chain").is_some()
            {
                around.listener = Some(value);
            }
            if has_type(value, ".HttpConnectionManager") {
                around.connection_manager = Some(value);
            }
            if let Some(plugin) = wasm_plugin(value) {
                found.push(Filter { plugin, around });
                return;
            }
            for (name, member) in members {
                match member {
                    Value::Array(filters)
                        if matches!(name.as_str(), "http_filters" | "httpFilters") =>
                    {
                        for (index, filter) in filters.iter().enumerate() {
                            let before = filters.get(..index).unwrap_or_default();
                            find_filters(filter, Surroundings { before, ..around }, found);
                        }
                    }
                    _ => find_filters(member, around, found),
                }
            }
        }
        Value::Array(elements) => {
            for element in elements {
                find_filters(element, around, found);
            }
        }
        _ => {}
    }
}

/// The `PluginConfig` of an `envoy.extensions.filters.http.wasm.v3.Wasm`, or of the same in a `TypedStruct`.
fn wasm_plugin(value: &Value) -> Option<&Value> {
    const WASM: &str = "envoy.extensions.filters.http.wasm.v3.Wasm";
    if has_type(value, WASM) {
        return field(value, "config");
    }
    let is_wasm = text(value, "type_url").is_some_and(|url| url.ends_with(WASM));
    if is_wasm { field(field(value, "value")?, "config") } else { None }
}

/// Whether the `@type` of a message ends in this name.
pub(crate) fn has_type(message: &Value, name: &str) -> bool {
    message.get("@type").and_then(Value::as_str).is_some_and(|url| url.ends_with(name))
}

/// A field of a message, by its name in `snake_case`.
pub(crate) fn field<'v>(message: &'v Value, name: &str) -> Option<&'v Value> {
    let camel_case = || {
        let mut words = name.split('_');
        let mut camel_case = words.next().unwrap_or_default().to_owned();
        for word in words {
            let mut letters = word.chars();
            camel_case.extend(letters.next().map(|first| first.to_ascii_uppercase()));
            camel_case.push_str(letters.as_str());
        }
        camel_case
    };
    let found = message.get(name).or_else(|| message.get(camel_case()))?;
    Some(found).filter(|found| !found.is_null())
}

/// A field of a field of … a message: names are separated by dots.
pub(crate) fn at<'v>(message: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(message, |message, name| field(message, name))
}

pub(crate) fn text<'v>(message: &'v Value, name: &str) -> Option<&'v str> {
    field(message, name)?.as_str()
}

/// The elements of a repeated field.
pub(crate) fn elements<'v>(message: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    field(message, name).and_then(Value::as_array).into_iter().flatten()
}

/// A `google.protobuf.Duration`, in milliseconds.
pub(crate) fn duration_ms(value: &Value) -> Option<f64> {
    let seconds: f64 = value.as_str()?.strip_suffix('s')?.parse().ok()?;
    Some(seconds * 1000.0)
}

/// A `google.protobuf.UInt32Value`: a number, which may be in quotes.
pub(crate) fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}
