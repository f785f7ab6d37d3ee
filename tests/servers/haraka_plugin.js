// A Haraka plugin for the tests: it stores the mail, and applies the limits that Haraka's own plugins do not have.

const fs = require('node:fs')
const path = require('node:path')

let wanted
let taken = 0
const seen = new Map()

exports.register = function () {
    wanted = this.config.get('wanted.json')
}

// Avoid queries to a name server.
exports.hook_lookup_rdns = function (next) {
    next(OK, 'localhost')
}

exports.hook_capabilities = function (next, connection) {
    if (!wanted.extensions) connection.capabilities = connection.capabilities.slice(0, 1)
    next()
}

exports.hook_mail = function (next, connection, [address]) {
    if (wanted.login && !connection.relaying) return next(DENY, 'authentication required')
    connection.notes.mails = connection.notes.mails || 0
    if (wanted.mails && connection.notes.mails >= wanted.mails) {
        return next(DENYSOFTDISCONNECT, 'Too many messages in this session')
    }
    next()
}

exports.hook_rcpt = function (next, connection, [address]) {
    if (address.address === wanted.hangs_up_at) return next(DENYDISCONNECT, 'no such user')
    if (wanted.recipients && connection.transaction.rcpt_to.length > wanted.recipients) {
        return next(DENYSOFT, 'Too many recipients')
    }
    if (wanted.greylist) {
        const key = `${connection.transaction.mail_from.address} ${address.address}`
        const since = seen.get(key)
        if (since === undefined) seen.set(key, Date.now())
        if (since === undefined || Date.now() - since < wanted.greylist * 1000) {
            return next(DENYSOFT, `Greylisted, try again in ${wanted.greylist} seconds`)
        }
    }
    next(OK)
}

exports.hook_queue = function (next, connection) {
    const { transaction } = connection
    const envelope = {
        from: transaction.mail_from.address || '',
        to: transaction.rcpt_to.map((one) => one.address),
    }
    const name = path.join(wanted.kept, `${process.pid}-${++taken}`)
    const file = fs.createWriteStream(`${name}.part`)
    file.write(`${JSON.stringify(envelope)}\n`)
    file.once('close', () => {
        fs.renameSync(`${name}.part`, `${name}.mail`)
        connection.notes.mails += 1
        next(OK)
    })
    transaction.message_stream.pipe(file, { line_endings: '\r\n' })
}

// A client that has logged in may send to any domain.
exports.hook_queue_outbound = exports.hook_queue
