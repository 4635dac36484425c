//! Reads Envoy's configuration files, and finds the filters in them with their surroundings.
//!
//! A file is a bootstrap, an LDS, CDS or ECDS file, or a Kubernetes resource that contains one of
//! these. Fields have the names of Envoy's protobuf messages, in `snake_case` or `lowerCamelCase`,
//! since Envoy accepts both.

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

/// The documents of a file. YAML may have several.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    pub(crate) path: PathBuf,
    documents: Vec<Value>,
}

impl ConfigFile {
    /// Reads files, and the files that Envoy would discover from them, if these exist. A relative
    /// path is resolved from the working directory, as Envoy does, and from the directory of the
    /// file that names it.
    pub(crate) fn read_all(paths: &[PathBuf]) -> Result<Vec<Self>, FileError> {
        let mut files = paths.iter().map(|path| Self::read(path)).collect::<Result<Vec<_>, _>>()?;
        let mut next = 0_usize;
        while let Some(file) = files.get(next) {
            next = next.saturating_add(1);
            let beside = file.path.parent().unwrap_or(Path::new(""));
            let discovered: Vec<PathBuf> = file
                .discovery_paths()
                .into_iter()
                .filter_map(|path| {
                    [PathBuf::from(path), beside.join(path)].into_iter().find(|path| path.is_file())
                })
                .collect();
            for path in discovered {
                let is_same =
                    |file: &Self| file.path.canonicalize().ok() == path.canonicalize().ok();
                if !files.iter().any(is_same) {
                    files.push(Self::read(&path)?);
                }
            }
        }
        Ok(files)
    }

    fn read(path: &Path) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| FileError::new(path, error.to_string()))?;
        Self::parse(path, &text)
    }

    /// Parses YAML, which includes JSON. Errors contain the line but no text, which may be a key.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        let options = serde_saphyr::options! { with_snippet: false };
        let documents = serde_saphyr::from_multiple_with_options(text, options)
            .map_err(|error| FileError::new(path, format!("not valid YAML: {error}")))?;
        Ok(Self { path: path.to_owned(), documents })
    }

    /// Returns the keen-edge filters in the file: those with such a name, else the only Wasm
    /// filter.
    pub(crate) fn filters(&self) -> Vec<Filter<'_>> {
        let mut filters = self.search().filters;
        if filters.iter().any(Filter::is_named_keen_edge) {
            filters.retain(Filter::is_named_keen_edge);
        } else if filters.len() > 1 {
            filters.clear();
        }
        filters
    }

    /// Returns the names of the filters that Envoy discovers (ECDS), each with its surroundings.
    pub(crate) fn discovered_filters(&self) -> Vec<(&str, Surroundings<'_>)> {
        self.search().discovered
    }

    /// Returns the files from which Envoy reads listeners, clusters and filters.
    pub(crate) fn discovery_paths(&self) -> Vec<&str> {
        let mut paths = Vec::new();
        for document in &self.documents {
            find_discovery_paths(document, false, &mut paths);
        }
        paths
    }

    fn search(&self) -> Search<'_> {
        let mut found = Search::default();
        for document in &self.documents {
            found.visit(document, Surroundings::default());
        }
        found
    }

    /// Returns the clusters that the file defines.
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

    /// Returns the bootstrap, if the file has one.
    pub(crate) fn bootstrap(&self) -> Option<&Value> {
        self.documents.iter().find(|document| field(document, "static_resources").is_some())
    }
}

/// A Wasm filter.
#[derive(Debug)]
pub(crate) struct Filter<'f> {
    /// Its `PluginConfig`.
    pub(crate) plugin: &'f Value,
    /// The name of the `TypedExtensionConfig` or `HttpFilter` that contains it.
    pub(crate) resource_name: Option<&'f str>,
    pub(crate) around: Surroundings<'f>,
}

/// The surroundings of a filter, as far as the file has them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Surroundings<'f> {
    pub(crate) listener: Option<&'f Value>,
    pub(crate) connection_manager: Option<&'f Value>,
    /// The filters before it.
    pub(crate) before: &'f [Value],
}

impl Filter<'_> {
    /// Returns the filter's name in Envoy's statistics.
    pub(crate) fn name(&self) -> &str {
        text(self.plugin, "name").unwrap_or("(without a name)")
    }

    fn is_named_keen_edge(&self) -> bool {
        let vm = field(self.plugin, "vm_config");
        let code = vm.and_then(|vm| field(vm, "code")).map(Value::to_string).unwrap_or_default();
        let names = [
            text(self.plugin, "name"),
            text(self.plugin, "root_id"),
            self.resource_name,
            Some(code.as_str()),
        ];
        names.into_iter().flatten().any(|name| name.replace('_', "-").contains("keen-edge"))
    }

    /// Returns the filter's configuration as Envoy passes it: the JSON of a Struct, or the text of
    /// a `StringValue`.
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

/// The results of a search in a file.
#[derive(Debug, Default)]
struct Search<'f> {
    filters: Vec<Filter<'f>>,
    discovered: Vec<(&'f str, Surroundings<'f>)>,
}

impl<'f> Search<'f> {
    fn visit(&mut self, value: &'f Value, mut around: Surroundings<'f>) {
        match value {
            Value::Object(members) => {
                if ["filter_chains", "default_filter_chain"]
                    .iter()
                    .any(|it| field(value, it).is_some())
                {
                    around.listener = Some(value);
                }
                if has_type(value, ".HttpConnectionManager") {
                    around.connection_manager = Some(value);
                }
                let name = text(value, "name");
                if let Some(plugin) = field(value, "typed_config").and_then(wasm_plugin) {
                    self.filters.push(Filter { plugin, resource_name: name, around });
                    return;
                }
                if let Some(plugin) = wasm_plugin(value) {
                    self.filters.push(Filter { plugin, resource_name: None, around });
                    return;
                }
                if let (Some(name), Some(_)) = (name, field(value, "config_discovery")) {
                    self.discovered.push((name, around));
                }
                for (name, member) in members {
                    match member {
                        Value::Array(filters)
                            if matches!(name.as_str(), "http_filters" | "httpFilters") =>
                        {
                            for (index, filter) in filters.iter().enumerate() {
                                let before = filters.get(..index).unwrap_or_default();
                                self.visit(filter, Surroundings { before, ..around });
                            }
                        }
                        _ => self.visit(member, around),
                    }
                }
            }
            Value::Array(elements) => {
                for element in elements {
                    self.visit(element, around);
                }
            }
            _ => {}
        }
    }
}

/// Finds the paths of LDS, CDS and ECDS files. `is_discovery`: whether `value` is in such a
/// configuration, and not in that of secrets.
fn find_discovery_paths<'f>(value: &'f Value, is_discovery: bool, paths: &mut Vec<&'f str>) {
    const DISCOVERY: [&str; 6] = [
        "lds_config",
        "ldsConfig",
        "cds_config",
        "cdsConfig",
        "config_discovery",
        "configDiscovery",
    ];
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(path) if is_discovery && name == "path" => paths.push(path),
                    _ => {
                        let is_discovery = is_discovery || DISCOVERY.contains(&name.as_str());
                        find_discovery_paths(member, is_discovery, paths);
                    }
                }
            }
        }
        Value::Array(elements) => {
            for element in elements {
                find_discovery_paths(element, is_discovery, paths);
            }
        }
        _ => {}
    }
}

/// Returns the `PluginConfig` of an `envoy.extensions.filters.http.wasm.v3.Wasm`, or of the same in
/// a `TypedStruct`.
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

/// Returns a field of a message, by its name in `snake_case`.
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

/// Returns a nested field. `path` has the names, separated by dots.
pub(crate) fn at<'v>(message: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(message, |message, name| field(message, name))
}

pub(crate) fn text<'v>(message: &'v Value, name: &str) -> Option<&'v str> {
    field(message, name)?.as_str()
}

/// Returns the elements of a repeated field.
pub(crate) fn elements<'v>(message: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    field(message, name).and_then(Value::as_array).into_iter().flatten()
}

/// Returns the milliseconds of a `google.protobuf.Duration`.
pub(crate) fn duration_ms(value: &Value) -> Option<f64> {
    let seconds: f64 = value.as_str()?.strip_suffix('s')?.parse().ok()?;
    Some(seconds * 1000.0)
}

/// Returns the number of a `google.protobuf.UInt32Value`, which may be in quotes.
pub(crate) fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}
