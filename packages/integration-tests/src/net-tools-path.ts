/** Where `netTools` are, in the lab and in guests. Programs there need LD_LIBRARY_PATH. */
export const NET_TOOLS = "/tools"
