// Uses the endpoint through types generated from its OpenAPI document; prints what it got as JSON.
import createClient from "openapi-fetch";
import type { paths } from "./schema.js";

const shop = createClient<paths>({ baseUrl: process.argv[2] });

const list = await shop.POST("/v1/recommendations", { body: { user_id: "u1", k: 3 } });
if (list.data === undefined) throw new Error(list.error.detail);
const [best] = list.data.items;
if (best === undefined) throw new Error("the list is empty");
const view = { event_type: "view", user_id: "u1", item_id: best.item_id, request_id: list.data.request_id } as const;
const sent = await shop.POST("/v1/events", { body: view });
const found = await shop.POST("/v1/search", { body: { query: best.title ?? "", k: 5 } });
const item = await shop.GET("/v1/items/{item_id}", { params: { path: { item_id: best.item_id } } });
const refused = await shop.POST("/v1/recommendations", { body: { k: 0 } });

console.log(
  JSON.stringify({
    shown: list.data.items.length,
    accepted: sent.data?.accepted,
    found: found.data?.items.some((hit) => hit.item_id === best.item_id),
    title: item.data?.item.title === best.title,
    refused: refused.error?.status,
  }),
);
