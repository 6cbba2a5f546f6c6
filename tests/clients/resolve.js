// Resolves each argument as Node's own connections do and prints its addresses on one line.
const dns = require('node:dns').promises;

(async () => {
  for (const name of process.argv.slice(2)) {
    let line = name;
    try {
      for (const one of await dns.lookup(name, { all: true })) line += ' ' + one.address;
    } catch {
      line += ' error';
    }
    console.log(line);
  }
})();
