// The built program as Node loads it: Vite would load a copy of it, with classes of its own.
module.exports = (path) => import(path)
