// nodemailer's smtp-server with the options that smtp_server.py has written: node smtp_server.js OPTIONS.json

const fs = require('node:fs')
const path = require('node:path')
const { createRequire } = require('node:module')

const wanted = JSON.parse(fs.readFileSync(process.argv[2]))
const { SMTPServer } = createRequire(path.join(wanted.modules, 'x'))('smtp-server')

function refusal(code, text) {
    return Object.assign(new Error(text), { responseCode: code })
}

// The times of the mails in this period, and the first time of each sender.
let mails = []
const seen = new Map()
let taken = 0

function onMailFrom(address, session, callback) {
    session.mails = session.mails || 0
    if (wanted.mails && session.mails >= wanted.mails) {
        return callback(refusal(421, 'Too many messages in this session'))
    }
    if (wanted.rate) {
        const [number, seconds] = wanted.rate
        mails = mails.filter((time) => time > Date.now() - seconds * 1000)
        if (mails.length >= number) return callback(refusal(450, 'Too many messages in a minute'))
        mails.push(Date.now())
    }
    callback()
}

function onRcptTo(address, session, callback) {
    if (address.address === wanted.hangs_up_at) {
        for (const connection of [...listening].flatMap((server) => [...server.connections])) {
            if (connection.session === session) connection._socket.destroy()
        }
        return
    }
    if (wanted.recipients && !wanted.refuses_all && session.envelope.rcptTo.length >= wanted.recipients) {
        return callback(refusal(452, 'Too many recipients'))
    }
    if (wanted.greylist) {
        const key = `${session.envelope.mailFrom.address} ${address.address}`
        const since = seen.get(key)
        if (since === undefined) seen.set(key, Date.now())
        if (since === undefined || Date.now() - since < wanted.greylist * 1000) {
            return callback(refusal(451, `Greylisted, try again in ${wanted.greylist} seconds`))
        }
    }
    callback()
}

function onData(stream, session, callback) {
    const parts = []
    stream.on('data', (part) => parts.push(part))
    stream.on('end', () => {
        const { mailFrom, rcptTo } = session.envelope
        if (stream.sizeExceeded) return callback(refusal(552, 'Message exceeds fixed maximum message size'))
        if (wanted.refuses_all && rcptTo.length > wanted.recipients) return callback(refusal(554, 'Too many recipients'))
        session.mails += 1
        const envelope = { from: mailFrom.address || '', to: rcptTo.map((one) => one.address) }
        const name = path.join(wanted.kept, `${process.pid}-${++taken}`)
        fs.writeFileSync(`${name}.part`, Buffer.concat([Buffer.from(`${JSON.stringify(envelope)}\n`), ...parts]))
        fs.renameSync(`${name}.part`, `${name}.mail`)
        callback(null, `queued as ${taken}`)
    })
}

function onAuth(auth, session, callback) {
    if (auth.username === wanted.user && auth.password === wanted.password) return callback(null, { user: auth.username })
    callback(refusal(535, 'Authentication failed'))
}

const hidden = wanted.extensions ? {} : { hide8BITMIME: true, hidePIPELINING: true, hideSMTPUTF8: true, hideSize: true }
const options = {
    ...hidden,
    key: wanted.key && fs.readFileSync(wanted.key),
    cert: wanted.certificate && fs.readFileSync(wanted.certificate),
    hideSTARTTLS: !wanted.certificate,
    authOptional: !wanted.login,
    disabledCommands: wanted.login ? [] : ['AUTH'],
    allowInsecureAuth: true,
    size: wanted.size || 50000000,
    maxClients: wanted.connections || undefined,
    disableReverseLookup: true,
    onMailFrom,
    onRcptTo,
    onData,
    onAuth,
}
const listening = [new SMTPServer({ ...options, secure: false })]
listening[0].listen(wanted.port, '127.0.0.1')
if (wanted.certificate) {
    listening.push(new SMTPServer({ ...options, secure: true }))
    listening[1].listen(wanted.tls_port, '127.0.0.1')
}
for (const server of listening) server.on('error', (error) => console.error(error.message))
