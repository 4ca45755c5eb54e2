// The settings of each Node-RED instance. Only settings that differ from Node-RED's defaults are here.
module.exports = {
    // The server gives each instance its own port, on the loopback address only: requests come through the proxy.
    uiHost: process.env.HOST || "127.0.0.1",
    uiPort: process.env.PORT,

    // The file of flows does not depend on the name of the host.
    flowFile: "flows.json",
    // An instance exists for an hour and is removed with its data, so encryption is not needed.
    credentialSecret: false,

    // Nothing is downloaded: no nodes for the palette and no modules for function nodes.
    externalModules: {
        autoInstall: false,
        palette: { allowInstall: false, allowUpdate: false, allowUpload: false },
        modules: { allowInstall: false },
    },
    functionExternalModules: false,
    // The nodes that access the host directly. Excluding them is no sandbox.
    nodesExcludes: ["90-exec.js", "10-file.js", "23-watch.js"],

    telemetry: { enabled: false, updateNotification: false },
    diagnostics: { enabled: false, ui: false },
    editorTheme: {
        tours: false,
        projects: { enabled: false },
        palette: { catalogues: [] },
    },
    logging: { console: { level: "warn", metrics: false, audit: false } },
};
