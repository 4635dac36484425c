#!/usr/bin/env bash
# Installs a group of SDKs into target/clients/GROUP and prints that directory:
# scripts/clients.sh node | device | python | go | java | kotlin | rust (of tests/clients) | facade (of tests/facade)
#
# An installed group is kept until its files in tests/ change.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

group="${1:-}"
sdk="$root/tests/clients/sdk/$group"
if [ "$group" = facade ]; then sdk="$root/tests/facade/npm"; fi
home="$root/target/clients/$group"

# Each function installs what $sdk lists into $home.

install_node() {
  { has node && has npm; } || apt_install nodejs npm
  say "installing the packages of ${sdk#"$root"/}/package.json from npm into target/clients/$group"
  cp "$sdk/package.json" "$sdk/package-lock.json" "$home/"
  # No package needs its install script.
  (cd "$home" && npm install --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error) ||
    die "npm could not install ${sdk#"$root"/}/package.json; see its output above"
  # Node resolves packages from the directory of the importing module.
  cp "$sdk"/*.mjs "$home/"
}

install_facade() { install_node; }

install_device() { install_node; }

install_python() {
  has python3 || apt_install python3 python3-venv
  # Debian has venv in the package python3-venv.
  if ! python3 -m venv "$home/venv" >/dev/null 2>&1; then
    rm -rf "$home/venv"
    apt_install python3-venv
    python3 -m venv "$home/venv" || die "python3 -m venv $home/venv failed; see its output above"
  fi
  # Each version of a package is installed into its own directory; PYTHONPATH selects it.
  while read -r requirement; do
    rm -rf "${home:?}/$requirement"
    say "installing $requirement from PyPI into target/clients/python"
    "$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --target "$home/$requirement" "$requirement" ||
      die "pip could not install $requirement; see its output above"
  done < <(grep -v '^#' "$sdk/requirements.txt")
}

install_go() {
  has go || apt_install golang-go
  local directory
  for directory in . rudder; do
    say "building analytics-go of ${directory/./segment} into target/clients/go"
    # By default go makes the module cache read-only, and rm fails.
    (cd "$sdk/$directory" && GOFLAGS=-modcacherw GOMODCACHE="$home/mod" go build -o "$home/${directory/./clients}" .) ||
      die "go could not build tests/clients/sdk/go/$directory; see its output above"
  done
}

# maven_jars POM DIRECTORY: copies the dependencies of a POM into a directory.
maven_jars() {
  mvn --quiet --batch-mode --file "$1" -Dmaven.repo.local="$root/target/clients/maven" \
    dependency:copy-dependencies -DoutputDirectory="$2" ||
    die "maven could not install the dependencies of ${1#"$root"/}; see its output above"
}

install_java() {
  { has mvn && has javac; } || apt_install maven default-jdk-headless
  local name pom
  for pom in "$sdk"/*.pom.xml; do
    name="$(basename "$pom" .pom.xml)"
    rm -rf "${home:?}/$name"
    say "installing the Java SDK of $name from Maven into target/clients/java"
    maven_jars "$pom" "$home/$name/jars"
    # The programs' classes are SegmentClient and RudderClient.
    javac -nowarn -cp "$home/$name/jars/*" -d "$home/$name/classes" \
      "$sdk/src/Report.java" "$sdk/src/${name^}Client.java" ||
      die "javac could not build tests/clients/sdk/java; see its output above"
  done
}

install_kotlin() {
  { has mvn && has java; } || apt_install maven default-jdk-headless
  rm -rf "${home:?}/jars" "$home/compiler"
  say "installing analytics-kotlin and a Kotlin compiler (62 MB) from Maven into target/clients/kotlin"
  maven_jars "$sdk/sdk.pom.xml" "$home/jars"
  maven_jars "$sdk/compiler.pom.xml" "$home/compiler"
  local jars=("$home"/jars/*.jar)
  java -cp "$home/compiler/*" org.jetbrains.kotlin.cli.jvm.K2JVMCompiler -no-stdlib -no-reflect -nowarn \
    -cp "$(IFS=:; echo "${jars[*]}")" -d "$home/clients.jar" "$sdk"/src/*.kt ||
    die "the Kotlin compiler could not build tests/clients/sdk/kotlin; see its output above"
}

install_rust() {
  say "building the crate segment into target/clients/rust (a minute)"
  cargo build --quiet --locked --manifest-path "$sdk/Cargo.toml" --target-dir "$home/target" ||
    die "cargo could not build tests/clients/sdk/rust; see its output above"
  cp "$home/target/debug/segment-client" "$home/"
}

case "$group" in
  node | device | python | go | java | kotlin | rust | facade) ;;
  *) die "scripts/clients.sh node | device | python | go | java | kotlin | rust | facade" ;;
esac
mkdir -p "$home"
# Tests run in parallel, and each may call this script. The Maven repository is shared by two groups.
if has flock; then
  lock="$home"
  case "$group" in java | kotlin) lock="$root/target/clients/maven" ;; esac
  exec 9>"$lock.lock"
  flock 9
fi
recipe="$(find "$sdk" "${BASH_SOURCE[0]}" -type f -exec sha256sum {} + | LC_ALL=C sort | sha256sum)"
if [ ! -e "$home/installed" ] || [ "$(cat "$home/installed")" != "$recipe" ]; then
  rm -f "$home/installed"
  "install_$group" >&2 </dev/null
  echo "$recipe" >"$home/installed"
fi
echo "$home"
