CREATE TABLE ps_shop_url (id_shop int PRIMARY KEY, domain varchar(255) NOT NULL, domain_ssl varchar(255) NOT NULL) ENGINE=InnoDB;
INSERT INTO ps_shop_url VALUES (1, 'localhost:80', 'localhost:80');
CREATE TABLE ps_configuration (name varchar(254) PRIMARY KEY, value text) ENGINE=InnoDB;
INSERT INTO ps_configuration VALUES ('PS_SHOP_DOMAIN', 'localhost:80'), ('PS_SHOP_DOMAIN_SSL', 'localhost:80'), ('PS_SHOP_NAME', 'A shop of your own');
CREATE TABLE ps_product (id_product int AUTO_INCREMENT PRIMARY KEY, name varchar(200) NOT NULL, price decimal(10,2) NOT NULL) ENGINE=InnoDB;
INSERT INTO ps_product (name, price) VALUES ('Hummingbird mug', 11.90), ('Mountain fox cushion', 18.90), ('Brown bear notebook', 12.90);
CREATE TABLE ps_module (name varchar(64) PRIMARY KEY, version varchar(32) NOT NULL) ENGINE=InnoDB;
CREATE TABLE ps_employee (id_employee int AUTO_INCREMENT PRIMARY KEY, email varchar(255) NOT NULL, passwd varchar(255) NOT NULL) ENGINE=InnoDB;
-- The password is "prestashop".
INSERT INTO ps_employee (email, passwd) VALUES ('admin@prestashop.com', '$2y$10$tryitnow.shape.of.shoeGMYousyDVsEgN.ZlmwAZ7x50NbM5ZVy');
