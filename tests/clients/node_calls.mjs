// node-redis uses a cluster by its ordinary calls: see README.md.
//
// node node_calls.mjs ADDRESS,ADDRESS,... calls|kill SECONDS
//
// NODE_MODULES names the directory in which the package `redis` is installed.

import { createRequire } from 'node:module';
import { isDeepStrictEqual } from 'node:util';

const require = createRequire(`${process.env.NODE_MODULES}/`);
const { createClient } = require('redis');
const { version } = require('@redis/client/package.json');

function check(isSo, what) {
    if (!isSo) throw new Error(what);
}

function same(came, expected, what) {
    check(isDeepStrictEqual(came, expected), `${what}: ${JSON.stringify(came)} came, ${JSON.stringify(expected)} was expected`);
}

async function open(address, options = {}) {
    const client = createClient({
        url: `redis://${address}`,
        name: 'node-redis',
        disableOfflineQueue: true,
        ...options,
        socket: { connectTimeout: 2000, reconnectStrategy: false },
    });
    client.on('error', () => {});
    await client.connect();
    return client;
}

async function calls(addresses) {
    for (const RESP of [2, 3]) {
        for (const address of addresses) {
            const client = await open(address, { RESP });
            await one(client, `RESP${RESP} at ${address}`);
            await client.close();
        }
    }
    return 'all calls are answered as Redis answers them';
}

async function one(client, where) {
    const equal = (came, expected, what) => same(came, expected, `${where}, ${what}`);
    equal(await client.ping(), 'PONG', 'PING');
    equal(await client.clientGetName(), 'node-redis', 'CLIENT GETNAME');
    equal(await client.set('js:text', 'value'), 'OK', 'SET');
    equal(await client.get('js:text'), 'value', 'GET');
    equal(await client.get('js:absent'), null, 'GET of nothing');
    equal(await client.set('js:text', 'other', { NX: true }), null, 'SET NX');
    equal(await client.set('js:short', 'lived', { EX: 100 }), 'OK', 'SET EX');
    const left = await client.ttl('js:short');
    check(left === 99 || left === 100, `${where}, TTL: ${left}`);
    equal(await client.persist('js:short'), 1, 'PERSIST');
    equal(await client.expire('js:short', 50), 1, 'EXPIRE');
    await client.del('js:number');
    equal(await client.incrBy('js:number', 5), 5, 'INCRBY');
    equal(await client.decr('js:number'), 4, 'DECR');
    equal(await client.append('js:number', '2'), 2, 'APPEND');
    equal(await client.getDel('js:number'), '42', 'GETDEL');
    equal(await client.mSet({ 'js:a': '1', 'js:b': '2' }), 'OK', 'MSET');
    equal(await client.mGet(['js:a', 'js:absent', 'js:b']), ['1', null, '2'], 'MGET');
    equal(await client.exists(['js:a', 'js:b', 'js:absent']), 2, 'EXISTS');
    const pipeline = [];
    for (let i = 0; i < 500; i++) pipeline.push(client.set(`js:pipe:${i}`, String(i)));
    for (let i = 0; i < 500; i++) pipeline.push(client.get(`js:pipe:${i}`));
    equal((await Promise.all(pipeline)).slice(500), [...Array(500).keys()].map(String), 'a pipeline');
    const found = new Set();
    for await (const keys of client.scanIterator({ MATCH: 'js:pipe:*', COUNT: 100 })) {
        for (const key of [keys].flat()) found.add(key);
    }
    equal(found.size, 500, 'SCAN');
    equal(await client.del([...found]), 500, 'DEL');
    check((await client.dbSize()) > 0, `${where}, DBSIZE`);
    check((await client.info('replication')).includes('role:master'), `${where}, INFO`);
    equal({ ...(await client.configGet('save')) }, { save: '' }, 'CONFIG GET');
    equal(await client.wait(0, 1000) >= 0, true, 'WAIT');
    const refused = await client.lPush('js:list', '1').catch((error) => error);
    check(/unknown command/.test(String(refused)), `${where}, LPUSH: ${refused}`);
}

// Writes for so long, beginning with the last node, which is the one that is killed.
async function kill(addresses, seconds) {
    const stored = new Map();
    let [added, errors, turn, number] = [0, 0, 0, 0];
    let client = null;
    const start = Date.now();
    // A busy machine has more time, so that there is something to judge.
    const time = () => 1000 * (stored.size > 100 ? seconds : Math.max(seconds, 60));
    while (Date.now() - start < time()) {
        try {
            if (client === null) {
                const address = addresses[addresses.length - 1 - (turn % addresses.length)];
                turn += 1;
                client = await open(address, { RESP: 3 });
            }
            const [key, value] = [`js:kill:${number}`, `value ${number}`];
            number += 1;
            await client.set(key, value);
            stored.set(key, value);
            await client.incr('js:kill');
            added += 1;
        } catch {
            errors += 1;
            try {
                client?.destroy();
            } catch {
                // It is closed already.
            }
            client = null;
        }
    }
    client = await open(addresses[0], { RESP: 3 });
    for (const [key, value] of stored) same(await client.get(key), value, key);
    const found = Number(await client.get('js:kill'));
    check(added <= found && found <= added + errors, `the number is ${found}: ${added} to ${added + errors} was expected`);
    check(stored.size > 100, `only ${stored.size} writes were answered`);
    await client.close();
    return `${stored.size + added} writes were answered and are there, ${errors} calls failed`;
}

const [addresses, work, seconds] = process.argv.slice(2);
try {
    let said;
    if (work === 'calls') said = await calls(addresses.split(','));
    else if (work === 'kill') said = await kill(addresses.split(','), Number(seconds));
    else throw new Error('usage: node_calls.mjs ADDRESS,ADDRESS,... calls|kill SECONDS');
    console.log(`node-redis ${version}: ${said}`);
    process.exit(0);
} catch (error) {
    console.log(`node-redis ${version}: ${error.message}`);
    process.exit(1);
}
