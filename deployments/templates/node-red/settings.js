// What each Node-RED instance starts with. Only what differs from Node-RED's own defaults is set.
module.exports = {
    // The server gives each instance its own port, on the loopback address only: the way in is the proxy.
    uiHost: process.env.HOST || "127.0.0.1",
    uiPort: process.env.PORT,

    // One file of flows, whatever the name of the host.
    flowFile: "flows.json",
    // An instance lives for an hour and is thrown away with what it holds, so there is nothing to encrypt for.
    credentialSecret: false,

    // Nothing is downloaded: neither nodes into the palette nor modules into function nodes.
    externalModules: {
        autoInstall: false,
        palette: { allowInstall: false, allowUpdate: false, allowUpload: false },
        modules: { allowInstall: false },
    },
    functionExternalModules: false,
    // The plainest ways to the host. This is tidiness, not a sandbox.
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
