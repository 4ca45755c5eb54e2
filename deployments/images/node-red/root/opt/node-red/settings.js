// The settings of each Node-RED instance. Only settings that differ from Node-RED's defaults are here.
module.exports = {
    uiHost: '0.0.0.0',
    uiPort: process.env.PORT,
    flowFile: 'flows.json',
    credentialSecret: false,
    httpStatic: [{ path: '/opt/node-red/public', root: '/files/' }],
    functionGlobalContext: { crypto: require('node:crypto') },
    // Nothing is downloaded: no nodes for the palette and no modules for function nodes.
    externalModules: {
        autoInstall: false,
        palette: { allowInstall: false, allowUpdate: false, allowUpload: false },
        modules: { allowInstall: false },
    },
    functionExternalModules: false,
    telemetry: { enabled: false, updateNotification: false },
    diagnostics: { enabled: false, ui: false },
    logging: { console: { level: 'warn', metrics: false, audit: false } },
};
